// Variants of the plain cell in the persistent kernels. Half types are computed in float32 there as well (modules.py),
// and float64 has no such kernels.
#include "kernels/block.cuh"
#include "kernels/cluster.cuh"
#include "kernels/group.cuh"
#include "kernels/variant_cells.cuh"

namespace lstm_fused {

int variant_block_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<DType::kFloat32>(launch, [&](auto arithmetic) {
    return run_block_forward<VariantCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}
int variant_block_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<DType::kFloat32>(launch, [&](auto arithmetic) {
    return run_block_backward<VariantCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}
int variant_cluster_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<DType::kFloat32>(launch, [&](auto arithmetic) {
    return run_cluster_forward<VariantCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}
int variant_cluster_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<DType::kFloat32>(launch, [&](auto arithmetic) {
    return run_cluster_backward<VariantCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}
int variant_group_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<DType::kFloat32>(launch, [&](auto arithmetic) {
    return run_group_forward<VariantCells, decltype(arithmetic), false>(launch, shape, params, stream);
  });
}
int variant_group_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<DType::kFloat32>(launch, [&](auto arithmetic) {
    return run_group_backward<VariantCells, decltype(arithmetic), false>(launch, shape, params, stream);
  });
}

}  // namespace lstm_fused
