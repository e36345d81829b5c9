// What launch_kernel does.
#pragma once

#include <functional>

#include "machine.h"

namespace sim {

constexpr int kTooManyBlocks = 720;  // of cudaError_t

// Runs a grid and returns cudaSuccess, or the error code where CUDA would refuse it; throws Fault.
int launch(const Shape& shape, const std::function<void()>& body);

}  // namespace sim
