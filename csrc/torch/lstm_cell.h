// LSTMCell: one step without a dimension for time, which is a call of a stack on the same memory.
#pragma once

#include "torch/call.h"

namespace lstm_fused {

struct CellCall {
  Tensor input;             // (B, I) or (I,)
  OptionalTensor h_0, c_0;  // (B, H) or (H,); zero where missing
  std::vector<Tensor> weights;
  bool allow_tf32;
};

struct CellOutputs {
  Tensor h, c;
  OptionalTensor reserve;
};
struct CellGrads {
  OptionalTensor h, c;
};

// As a stack's: of one step.
Call as_call(const CellCall& cell);

CellOutputs run_cell(Forward* forward, const CellCall& call, bool training);
InputGrads run_cell_backward(Backward* backward, const CellCall& call, const CellGrads& grads, const Tensor& reserve,
                             Needs needs);

// Of the weights of a cell whose backward left the gradients of its gates (Needs), for rows (N, ..) of any steps.
struct CellRows {
  Tensor grad_gates;  // (N, 4H)
  Tensor input, h_0;  // (N, I), (N, H)
};
std::vector<Tensor> cell_weight_gradients_cpu(const CellRows& rows, const std::vector<Tensor>& weights);

}  // namespace lstm_fused
