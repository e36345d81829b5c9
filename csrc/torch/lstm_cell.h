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

CellOutputs run_cell(Forward* forward, const CellCall& call, bool training);
InputGrads run_cell_backward(Backward* backward, const CellCall& call, const CellGrads& grads, const Tensor& reserve,
                             Needs needs);

}  // namespace lstm_fused
