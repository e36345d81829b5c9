#include "torch/call.h"

#include <cstring>

#include "cell.h"

namespace lstm_fused {

Call complete(const Tensor& input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights,
              const Options& options, int64_t num_layers) {
  if (!h_0 || !c_0) {
    const int64_t states = num_layers * (options.bidirectional ? 2 : 1);
    STD_TORCH_CHECK(input.dim() == 3 && states > 0 && weights.size() > 1 && weights[1].dim() == 2,
                    "lstm_fused: input must be 3-D, and weights must begin with w_ih and w_hh");
    const int64_t hidden = weights[1].size(0) / kNumGates, width = weights[1].size(1);
    const auto zeros = [&](int64_t size) {
      const Tensor result = empty({states, input.size(1), size}, input, input.scalar_type());
      if (result.is_cpu())
        std::memset(result.mutable_data_ptr(), 0, result.numel() * result.element_size());
      else
        TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(result.get()));
      return result;
    };
    const bool are_alike = !h_0 && !c_0 && width == hidden;
    if (!c_0) c_0 = zeros(hidden);
    if (!h_0) h_0 = are_alike ? *c_0 : zeros(width);
  }
  return {input, *h_0, *c_0, std::move(weights), options};
}

}  // namespace lstm_fused
