#include "kernels/step.cuh"

namespace lstm_fused {

template int step_forward<DType::kBFloat16>(const Launch&, const LayerShape&, const void*, void*);
template int step_backward<DType::kBFloat16>(const Launch&, const LayerShape&, const void*, void*);

}  // namespace lstm_fused
