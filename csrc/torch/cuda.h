// What the two CUDA entries share: the kernel that runs a layer, and the choice of a function by type.
#pragma once

#include "kernels/table.h"
#include "torch/stack.h"

namespace lstm_fused {

struct LayerKernel {
  Launch launch;
  Launcher forward, backward;
};

// The planner's choice for one layer on this device. Raises where this build has no kernel for it.
LayerKernel layer_kernel(const Stack& stack, int64_t layer, bool training, bool allow_tf32, int device);

// Runs one layer, all its directions. Raises where the kernel cannot be launched.
void run(Launcher launcher, const Launch& launch, const LayerShape& shape, const void* params, void* stream);

// One of four instantiations.
template <class Function>
Function by_type(ScalarType dtype, Function of_float16, Function of_bfloat16, Function of_float, Function of_double) {
  return dtype == ScalarType::Half       ? of_float16
         : dtype == ScalarType::BFloat16 ? of_bfloat16
         : dtype == ScalarType::Float    ? of_float
                                         : of_double;
}

}  // namespace lstm_fused
