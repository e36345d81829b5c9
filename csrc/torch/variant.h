// The ops of one direction of one layer whose cell is a variant of the plain one: schemas and flat arguments. Their
// meaning is in lstm_fused/variant_ops.py.
#pragma once

#include <tuple>
#include <utility>

#include "torch/tensors.h"

namespace lstm_fused {

struct VariantCall {
  Tensor x, h_0, c_0;           // (T, B, I), (B, P), (B, H)
  std::vector<Tensor> weights;  // w_ih, w_hh, [b_ih, b_hh], [w_hr], [peepholes], [weights and biases of the norms]
  bool reverse;
  OptionalTensor lengths, reset;                                  // (B,), (T, B)
  OptionalTensor zoneout_h_mask, zoneout_c_mask, recurrent_mask;  // (T, B, P), (T, B, H), (B, P)
  double zoneout_h, zoneout_c, cell_clip;
  bool peephole, layer_norm;
};

struct VariantOutputs {
  Tensor h, cells, h_n, c_n;  // (T, B, P), (T, B, H), (B, P), (B, H)
  Tensor reserve;             // flat; empty without training
};

struct VariantOutputGrads {
  OptionalTensor h, cells, h_n, c_n;
};

struct VariantInputGrads {
  Tensor x, h_0, c_0;           // x empty where not needed
  std::vector<Tensor> weights;  // none where not needed
};

VariantOutputs variant_cpu(const VariantCall& call, bool training);
VariantInputGrads variant_backward_cpu(const VariantCall& call, const VariantOutputGrads& grads, const Tensor& reserve,
                                       bool needs_input, bool needs_weights);

#define LSTM_FUSED_VARIANT_ARGUMENTS                                                                           \
  "Tensor x, Tensor h_0, Tensor c_0, Tensor[] weights, bool reverse, Tensor? lengths, Tensor? reset, "         \
  "Tensor? zoneout_h_mask, Tensor? zoneout_c_mask, Tensor? recurrent_mask, float zoneout_h, float zoneout_c, " \
  "float cell_clip, bool peephole, bool layer_norm, "

constexpr const char* kVariantSchema = "variant(" LSTM_FUSED_VARIANT_ARGUMENTS
                                       "bool training) -> "
                                       "(Tensor h, Tensor cells, Tensor h_n, Tensor c_n, Tensor reserve)";
constexpr const char* kVariantBackwardSchema =
    "variant_backward(Tensor? grad_h, Tensor? grad_cells, Tensor? grad_h_n, Tensor? grad_c_n, "  //
    LSTM_FUSED_VARIANT_ARGUMENTS
    "Tensor reserve, bool needs_input_grad, bool needs_weight_grads) -> "
    "(Tensor grad_x, Tensor grad_h_0, Tensor grad_c_0, Tensor[] grad_weights)";

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> variant_op(
    Tensor x, Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool reverse, OptionalTensor lengths,
    OptionalTensor reset, OptionalTensor zoneout_h_mask, OptionalTensor zoneout_c_mask, OptionalTensor recurrent_mask,
    double zoneout_h, double zoneout_c, double cell_clip, bool peephole, bool layer_norm, bool training) {
  const VariantCall call{.x = x,
                         .h_0 = h_0,
                         .c_0 = c_0,
                         .weights = std::move(weights),
                         .reverse = reverse,
                         .lengths = lengths,
                         .reset = reset,
                         .zoneout_h_mask = zoneout_h_mask,
                         .zoneout_c_mask = zoneout_c_mask,
                         .recurrent_mask = recurrent_mask,
                         .zoneout_h = zoneout_h,
                         .zoneout_c = zoneout_c,
                         .cell_clip = cell_clip,
                         .peephole = peephole,
                         .layer_norm = layer_norm};
  const auto [h, cells, h_n, c_n, reserve] = variant_cpu(call, training);
  return {h, cells, h_n, c_n, reserve};
}

inline std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> variant_backward_op(
    OptionalTensor grad_h, OptionalTensor grad_cells, OptionalTensor grad_h_n, OptionalTensor grad_c_n, Tensor x,
    Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool reverse, OptionalTensor lengths, OptionalTensor reset,
    OptionalTensor zoneout_h_mask, OptionalTensor zoneout_c_mask, OptionalTensor recurrent_mask, double zoneout_h,
    double zoneout_c, double cell_clip, bool peephole, bool layer_norm, Tensor reserve, bool needs_input_grad,
    bool needs_weight_grads) {
  const VariantCall call{.x = x,
                         .h_0 = h_0,
                         .c_0 = c_0,
                         .weights = std::move(weights),
                         .reverse = reverse,
                         .lengths = lengths,
                         .reset = reset,
                         .zoneout_h_mask = zoneout_h_mask,
                         .zoneout_c_mask = zoneout_c_mask,
                         .recurrent_mask = recurrent_mask,
                         .zoneout_h = zoneout_h,
                         .zoneout_c = zoneout_c,
                         .cell_clip = cell_clip,
                         .peephole = peephole,
                         .layer_norm = layer_norm};
  const VariantOutputGrads of_outputs{.h = grad_h, .cells = grad_cells, .h_n = grad_h_n, .c_n = grad_c_n};
  const VariantInputGrads grads = variant_backward_cpu(call, of_outputs, reserve, needs_input_grad, needs_weight_grads);
  return {grads.x, grads.h_0, grads.c_0, grads.weights};
}

}  // namespace lstm_fused
