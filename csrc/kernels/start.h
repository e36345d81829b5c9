// Starts kernels. Host code, and nothing that depends on a kernel's type.
#pragma once

#include "kernels/launch.h"

namespace lstm_fused {

// `kernel` is a __global__ function of one parameter, `stream` a cudaStream_t. Returns a cudaError_t. Whether there is
// room for blocks that wait for one another is known before anything starts, also while a stream is being captured.
int start_kernel(const void* kernel, const Grid& grid, void* stream, const void* params);

}  // namespace lstm_fused
