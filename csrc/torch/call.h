// What a call of the ops hands on, by name. lstm_fused/options.py has the same on Python's side; between the two the
// schemas (ops.h) spell it out flat.
#pragma once

#include "torch/tensors.h"

namespace lstm_fused {

// Sizes as in params.h. Packed input, which the CPU alone takes, has N rows for T, B.
struct Options {
  bool bidirectional = false;
  OptionalTensor lengths = {};       // (B,), of packed input as well
  OptionalTensor reset = {};         // (T, B)
  OptionalTensor dropout_mask = {};  // (L-1, T, B, D*P)
  bool return_cells = false;
  bool recompute_gates = false;
  bool allow_tf32 = false;
};

struct Call {
  Tensor input;                 // (T, B, I)
  Tensor h_0, c_0;              // (L*D, B, P), (L*D, B, H)
  std::vector<Tensor> weights;  // of each layer and direction: w_ih, w_hh, [b_ih, b_hh], [w_hr]
  Options options = {};
};

// With zeros for states that are missing, of the size that the weights imply.
Call complete(const Tensor& input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights,
              const Options& options, int64_t num_layers);

struct Outputs {
  Tensor output, h_n, c_n;        // (T, B, D*P), (L*D, B, P), (L*D, B, H)
  OptionalTensor cells, reserve;  // (T, B, D*H), (N,); none where not asked for: a tensor takes time, empty ones too
};

// Of what a call gave back; those that are missing are zero.
struct OutputGrads {
  OptionalTensor output = {}, h_n = {}, c_n = {}, cells = {};
};

// Whose gradients backward is to find. Those of gates are what those of weights are made of, for a caller who makes
// them himself: of one step of one layer, on the CPU.
struct Needs {
  bool input, weights, states;
  bool gates = false;
};

// None where not needed.
struct InputGrads {
  OptionalTensor input, h_0, c_0;
  std::vector<Tensor> weights = {};  // in their order
  OptionalTensor gates = {};         // (B, 4H), before their activations; in float for half types
};

// `training` keeps a reserve for backward.
using Forward = Outputs(const Call&, bool training);
using Backward = InputGrads(const Call&, const OutputGrads&, const Tensor& reserve, Needs);

Forward forward_cpu, forward_cuda;
Backward backward_cpu, backward_cuda;

}  // namespace lstm_fused
