#include "kernels/cluster.cuh"

namespace lstm_fused {

template int cluster_forward<DType::kFloat16>(const Launch&, const LayerShape&, const void*, void*);
template int cluster_backward<DType::kFloat16>(const Launch&, const LayerShape&, const void*, void*);

}  // namespace lstm_fused
