// The one place where a kernel kind becomes a function: (kind, dtype, training) -> launchers.
#pragma once

#include <string>

#include "kernels/launch.h"

namespace lstm_fused {

struct KernelEntry {
  KernelKind kind;
  DType dtype;
  bool training;
  Launcher forward;
  Launcher backward;
};

// A run of entries; a plain pair, so that tests can look things up in tables of their own.
struct KernelTable {
  const KernelEntry* begin;
  const KernelEntry* end;
};

// The kernels of this build.
KernelTable kernel_table();

// Null when the table has no such kernel; missing_kernel then says what it has.
const KernelEntry* find_kernel(KernelTable table, KernelKind kind, DType dtype, bool training);

// "no kernel step_float32_training in this build; it has: none"
std::string missing_kernel(KernelTable table, KernelKind kind, DType dtype, bool training);

// Comma-separated, as the planner takes them ("step_bfloat16_inference,step_bfloat16_training"); empty for an empty
// table.
std::string kernel_names(KernelTable table = kernel_table());

}  // namespace lstm_fused
