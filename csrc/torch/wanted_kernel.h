// A choice that is not the planner's.
#pragma once

#include <cstdlib>
#include <string_view>

#include "plan/planner.h"

namespace lstm_fused {

// What LSTM_FUSED_KERNEL names, a kind of CUDA kernel (`group_stack`: of layers side by side) or a CPU kernel, runs
// whatever it can, so that they can be tested and timed beside each other; empty: none.
inline std::string_view wanted_kernel() {
  const char* const name = std::getenv("LSTM_FUSED_KERNEL");
  return name == nullptr ? "" : name;
}

inline CpuPlan with_wanted_kernel(CpuPlan plan, int64_t seq_len) {
  const std::string_view name = wanted_kernel();
  if (name == "packed") plan.kernel = CpuPlan::kPacked;
  if (name == "direct") plan.kernel = CpuPlan::kDirect;
  if (name == "one_step" && seq_len == 1) plan.kernel = CpuPlan::kOneStep;
  return plan;
}

}  // namespace lstm_fused
