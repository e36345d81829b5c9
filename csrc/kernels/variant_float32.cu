#include "kernels/variant.cuh"

namespace lstm_fused {

template int variant_forward<DType::kFloat32>(const Launch&, const LayerShape&, const void*, void*);
template int variant_backward<DType::kFloat32>(const Launch&, const LayerShape&, const void*, void*);

}  // namespace lstm_fused
