// What the two CPU entries share: torch's threads, and the choice of kernels by type.
#pragma once

#include "cpu/kernels.h"
#include "plan/planner.h"
#include "torch/stack.h"

namespace lstm_fused {

template <class T>
constexpr ScalarType kScalarType = ScalarType::Float;
template <>
inline constexpr ScalarType kScalarType<double> = ScalarType::Double;

template <class T>
const CpuKernels<T>& cpu_kernels();
template <>
inline const CpuKernels<float>& cpu_kernels<float>() {
  return instruction_set().float32;
}
template <>
inline const CpuKernels<double>& cpu_kernels<double>() {
  return instruction_set().float64;
}

// Elements up to the next multiple of 64 bytes.
template <class T>
int64_t whole_lines(int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(T);
  return (size + kLine - 1) / kLine * kLine;
}

inline Parallel torch_threads() {
  const auto run = [](int64_t num_tasks, void (*task)(void*, int64_t), void* context) {
    torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) task(context, index);
    });
  };
  return {static_cast<int64_t>(torch::stable::get_num_threads()), run};
}

// How the planner wants a layer run: which kernels, how to share it, and between how many of torch's threads.
struct CpuSchedule {
  CpuSplit split;
  bool one_step, direct_w_hh, direct_w_ih;  // see CpuPlan
  Parallel parallel;

  explicit CpuSchedule(const Stack& stack) : parallel(torch_threads()) {
    const CpuPlan plan = plan_cpu(stack.problem(false, false, false), parallel.num_threads);
    split = plan.split == CpuPlan::kGates ? CpuSplit::kGates : CpuSplit::kRows;
    one_step = plan.one_step;
    direct_w_hh = plan.direct_w_hh;
    direct_w_ih = plan.direct_w_ih;
    parallel.num_threads = plan.num_tasks < parallel.num_threads ? plan.num_tasks : parallel.num_threads;
  }
};

}  // namespace lstm_fused
