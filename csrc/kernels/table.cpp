#include "kernels/table.h"

#include <vector>

namespace lstm_fused {

KernelTable kernel_table() {
  // One line per instantiation, under #ifdef LSTM_FUSED_CUDA.
  static const std::vector<KernelEntry> entries = {};
  return {entries.data(), entries.data() + entries.size()};
}

const KernelEntry* find_kernel(KernelTable table, KernelKind kind, DType dtype, bool training) {
  for (const KernelEntry* entry = table.begin; entry != table.end; ++entry) {
    if (entry->kind == kind && entry->dtype == dtype && entry->training == training) return entry;
  }
  return nullptr;
}

std::string missing_kernel(KernelTable table, KernelKind kind, DType dtype, bool training) {
  const std::string known = kernel_names(table);
  return "no kernel " + kernel_name(kind, dtype, training) +
         " in this build; it has: " + (known.empty() ? "none" : known);
}

std::string kernel_names(KernelTable table) {
  std::string names;
  for (const KernelEntry* entry = table.begin; entry != table.end; ++entry) {
    if (!names.empty()) names += ",";
    names += kernel_name(entry->kind, entry->dtype, entry->training);
  }
  return names;
}

}  // namespace lstm_fused
