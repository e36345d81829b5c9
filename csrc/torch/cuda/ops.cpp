// Registration for CUDA tensors.
#include "torch/ops.h"

#include "torch/variant.h"

namespace lstm_fused {

STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CUDA, m) {
  implement<Ops<forward_cuda, backward_cuda>>(m);
  implement_variants<VariantOps<variant_cuda, variant_backward_cuda>>(m);
}

}  // namespace lstm_fused
