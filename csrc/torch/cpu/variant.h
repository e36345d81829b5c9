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

// As the plain cell would be shared.
inline CpuSplit variant_split(const VariantLayer& layer, Parallel& parallel) {
  const CpuPlan plan =
      plan_cpu(layer.problem(/*training=*/false), {.num_threads = parallel.num_threads, .l2_bytes = l2_bytes()});
  parallel.num_threads = std::min(plan.num_tasks, parallel.num_threads);
  return plan.split == CpuPlan::kGates ? CpuSplit::kGates : CpuSplit::kRows;
}

}  // namespace lstm_fused
