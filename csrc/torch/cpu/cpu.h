// What the two CPU entries share: torch's threads, and the choice of kernels by type.
#pragma once

#include <algorithm>

#include "cpu/kernels.h"
#include "plan/planner.h"
#include "torch/stack.h"
#include "torch/wanted_kernel.h"

namespace lstm_fused {

template <class T>
constexpr ScalarType kScalarType = ScalarType::Float;
template <>
inline constexpr ScalarType kScalarType<double> = ScalarType::Double;

template <class T>
const CpuKernels<T>& cpu_kernels(const Stack& stack);
template <>
inline const CpuKernels<float>& cpu_kernels<float>(const Stack& stack) {
  return stack.dtype == ScalarType::BFloat16 ? instruction_set().bfloat16 : instruction_set().float32;
}
template <>
inline const CpuKernels<double>& cpu_kernels<double>(const Stack&) {
  return instruction_set().float64;
}
inline bool multiplies_pairs(const Stack& stack) {
  return stack.dtype == ScalarType::BFloat16 && instruction_set().multiplies_pairs;
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

// A product on as many of torch's threads as it is worth. The workspace is allocated as `like` is.
template <class T>
void multiply_matrices(const CpuKernels<T>& kernels, const ProductParams<T>& p, const Tensor& like) {
  constexpr double kFlopWorthAThread = 5e5;  // 5 to 20 us on one core
  int64_t columns = 0;
  for (int n = 0; n < p.num_factors(); ++n) columns += p.factors[n].columns;
  const double flop = 2.0 * static_cast<double>(p.rows * columns) * static_cast<double>(p.terms);
  Parallel parallel = torch_threads();
  parallel.num_threads = std::min(parallel.num_threads, 1 + static_cast<int64_t>(flop / kFlopWorthAThread));
  OptionalTensor workspace;
  if (const int64_t size = kernels.product_workspace(p, parallel.num_threads))
    workspace = empty({size}, like, kScalarType<T>);
  kernels.product(p, workspace ? data<T>(*workspace) : nullptr, parallel);
}

// Of weights whose products with rows of the factors have the gradient `grad` (rows, width).
template <class T>
ProductParams<T> weight_gradients(int64_t rows, const void* grad, int64_t width, int64_t batch,
                                  const ProductFactor& first, const ProductFactor& second) {
  return {.rows = width, .terms = rows, .a = grad, .a_transposed = true, .factors = {first, second}, .batch = batch};
}

// How the planner wants a layer run, and between how many of torch's threads.
struct CpuSchedule {
  Parallel parallel = torch_threads();
  CpuPlan plan;
  CpuSplit split;

  explicit CpuSchedule(const Stack& stack) : CpuSchedule(stack.problem(false, false, false), multiplies_pairs(stack)) {}
  explicit CpuSchedule(const Problem& problem, bool pairs = false)
      : plan(with_wanted_kernel(plan_cpu(problem, {.num_threads = parallel.num_threads,
                                                   .vector_bytes = instruction_set().vector_bytes,
                                                   .multiplies_pairs = pairs,
                                                   .l2_bytes = l2_bytes(),
                                                   .l1_bytes = l1_bytes()}),
                                problem.seq_len)),
        split(plan.split == CpuPlan::kGates ? CpuSplit::kGates : CpuSplit::kRows) {
    parallel.num_threads = std::min(parallel.num_threads, plan.num_tasks);
  }
};

}  // namespace lstm_fused
