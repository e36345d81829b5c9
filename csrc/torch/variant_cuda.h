// What the two CUDA entries of the cell's variants share: their launchers.
#pragma once

#include "kernels/device_query.h"
#include "kernels/table.h"
#include "torch/variant_layer.h"

namespace lstm_fused {

// Raises where this build has no such kernels, or they cannot be launched.
inline void run_variant(Launcher KernelEntry::* pass, const VariantLayer& layer, bool training, const void* params,
                        void* stream) {
  const KernelTable table = kernel_table();
  const DType dtype = kernel_type(layer.dtype);
  const KernelEntry* const entry = find_kernel(table, KernelKind::kVariant, dtype, training);
  STD_TORCH_CHECK(entry != nullptr, "lstm_fused: ", missing_kernel(table, KernelKind::kVariant, dtype, training));
  if (layer.batch == 0) return;
  const int error = (entry->*pass)({}, layer.shape(), params, stream);
  STD_TORCH_CHECK(error == 0, "lstm_fused: ", kernel_name(KernelKind::kVariant, dtype, training),
                  " was not launched: ", error_text(error));
}

}  // namespace lstm_fused
