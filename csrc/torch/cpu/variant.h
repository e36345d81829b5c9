// What the two CPU entries of the cell's variants share.
#pragma once

#include "torch/cpu/cpu.h"
#include "torch/variant_layer.h"

namespace lstm_fused {

template <class T>
const CpuKernels<T>& variant_cpu_kernels() {
  if constexpr (std::is_same_v<T, double>)
    return instruction_set().float64;
  else
    return instruction_set().float32;
}

}  // namespace lstm_fused
