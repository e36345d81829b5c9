#include "kernels/block.cuh"

namespace lstm_fused {

template int block_forward<DType::kBFloat16>(const Launch&, const LayerShape&, const void*, void*);
template int block_backward<DType::kBFloat16>(const Launch&, const LayerShape&, const void*, void*);

}  // namespace lstm_fused
