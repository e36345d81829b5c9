// The two ops of this library; their schemas are in ops.cpp, their meaning in lstm_fused/ops.py.
#pragma once

#include <tuple>

#include "torch/tensors.h"

namespace lstm_fused {

// output (T, B, D*P), h_n (L*D, B, P), c_n (L*D, B, H), cells (T, B, D*H) or (0,), reserve (N,) or (0,)
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

ForwardResult forward_cpu(Tensor input, Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool bidirectional,
                          OptionalTensor lengths, OptionalTensor reset, OptionalTensor dropout_mask, bool training,
                          bool return_cells);

// grad_input (T, B, I) or (0,), grad_h_0, grad_c_0, and the gradients of the weights in their order, or none
using BackwardResult = std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>>;

BackwardResult backward_cpu(OptionalTensor grad_output, OptionalTensor grad_h_n, OptionalTensor grad_c_n,
                            OptionalTensor grad_cells, Tensor input, Tensor h_0, Tensor c_0,
                            std::vector<Tensor> weights, bool bidirectional, OptionalTensor lengths,
                            OptionalTensor reset, OptionalTensor dropout_mask, Tensor output, Tensor reserve,
                            bool needs_input_grad, bool needs_weight_grads);

}  // namespace lstm_fused
