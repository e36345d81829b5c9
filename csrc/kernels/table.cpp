#include "kernels/table.h"

#include <vector>

#include "kernels/launchers.h"

namespace lstm_fused {

namespace {

#ifdef LSTM_FUSED_CUDA
template <DType kType>
void add(std::vector<KernelEntry>& entries) {
  for (const bool training : {false, true}) {
    entries.push_back({KernelKind::kStep, kType, training, step_forward<kType>, step_backward<kType>});
    if constexpr (kType == DType::kFloat32 || kType == DType::kFloat64)
      entries.push_back({KernelKind::kVariant, kType, training, variant_forward<kType>, variant_backward<kType>});
    if constexpr (kType != DType::kFloat64) {
      entries.push_back({KernelKind::kBlock, kType, training, block_forward<kType>, block_backward<kType>});
      entries.push_back({KernelKind::kCluster, kType, training, cluster_forward<kType>, cluster_backward<kType>});
      entries.push_back({KernelKind::kGroup, kType, training, group_forward<kType>, group_backward<kType>});
    }
    if constexpr (kType == DType::kFloat32) {
      entries.push_back({KernelKind::kVariantBlock, kType, training, variant_block_forward, variant_block_backward});
      entries.push_back(
          {KernelKind::kVariantCluster, kType, training, variant_cluster_forward, variant_cluster_backward});
      entries.push_back({KernelKind::kVariantGroup, kType, training, variant_group_forward, variant_group_backward});
    }
  }
}
#endif

std::vector<KernelEntry> all_entries() {
  std::vector<KernelEntry> entries;
#ifdef LSTM_FUSED_CUDA
  add<DType::kFloat16>(entries);
  add<DType::kBFloat16>(entries);
  add<DType::kFloat32>(entries);
  add<DType::kFloat64>(entries);
#endif
  return entries;
}

}  // namespace

KernelTable kernel_table() {
  static const std::vector<KernelEntry> entries = all_entries();
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
