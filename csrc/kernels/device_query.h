// Asks the CUDA runtime. In a build without CUDA both functions exist: query_device fails, and error_text says why.
#pragma once

#include "device_facts.h"

namespace lstm_fused {

// Fills `facts` for the device with this ordinal. Returns a cudaError_t as int, 0 is success.
int query_device(int device, DeviceFacts* facts);

// What a non-zero result of query_device or of a launcher means; the text lives as long as the library.
const char* error_text(int error);

}  // namespace lstm_fused
