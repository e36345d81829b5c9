#include "kernels/group.cuh"

namespace lstm_fused {

template int group_forward<DType::kBFloat16>(const Launch&, const LayerShape&, const void*, void*);
template int group_backward<DType::kBFloat16>(const Launch&, const LayerShape&, const void*, void*);

}  // namespace lstm_fused
