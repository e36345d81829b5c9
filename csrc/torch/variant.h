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
  bool allow_tf32;
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

using VariantForward = VariantOutputs(const VariantCall& call, bool training);
using VariantBackward = VariantInputGrads(const VariantCall& call, const VariantOutputGrads& grads,
                                          const Tensor& reserve, bool needs_input, bool needs_weights);

VariantForward variant_cpu, variant_cuda;
VariantBackward variant_backward_cpu, variant_backward_cuda;

#define LSTM_FUSED_VARIANT_ARGUMENTS                                                                           \
  "Tensor x, Tensor h_0, Tensor c_0, Tensor[] weights, bool reverse, Tensor? lengths, Tensor? reset, "         \
  "Tensor? zoneout_h_mask, Tensor? zoneout_c_mask, Tensor? recurrent_mask, float zoneout_h, float zoneout_c, " \
  "float cell_clip, bool peephole, bool layer_norm, "

constexpr const char* kVariantSchema = "variant(" LSTM_FUSED_VARIANT_ARGUMENTS
                                       "bool training, bool allow_tf32=False) -> "
                                       "(Tensor h, Tensor cells, Tensor h_n, Tensor c_n, Tensor reserve)";
constexpr const char* kVariantBackwardSchema =
    "variant_backward(Tensor? grad_h, Tensor? grad_cells, Tensor? grad_h_n, Tensor? grad_c_n, "  //
    LSTM_FUSED_VARIANT_ARGUMENTS
    "Tensor reserve, bool needs_input_grad, bool needs_weight_grads, bool allow_tf32=False) -> "
    "(Tensor grad_x, Tensor grad_h_0, Tensor grad_c_0, Tensor[] grad_weights)";

// On one platform. The flat arguments are the members of VariantCall, in their order.
template <VariantForward forward, VariantBackward backward>
struct VariantOps {
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> run_forward(
      Tensor x, Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool reverse, OptionalTensor lengths,
      OptionalTensor reset, OptionalTensor zoneout_h_mask, OptionalTensor zoneout_c_mask, OptionalTensor recurrent_mask,
      double zoneout_h, double zoneout_c, double cell_clip, bool peephole, bool layer_norm, bool training,
      bool allow_tf32) {
    const auto [h, cells, h_n, c_n, reserve] =
        forward({x, h_0, c_0, std::move(weights), reverse, lengths, reset, zoneout_h_mask, zoneout_c_mask,
                 recurrent_mask, zoneout_h, zoneout_c, cell_clip, peephole, layer_norm, allow_tf32},
                training);
    return {h, cells, h_n, c_n, reserve};
  }

  static std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> run_backward(
      OptionalTensor grad_h, OptionalTensor grad_cells, OptionalTensor grad_h_n, OptionalTensor grad_c_n, Tensor x,
      Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool reverse, OptionalTensor lengths, OptionalTensor reset,
      OptionalTensor zoneout_h_mask, OptionalTensor zoneout_c_mask, OptionalTensor recurrent_mask, double zoneout_h,
      double zoneout_c, double cell_clip, bool peephole, bool layer_norm, Tensor reserve, bool needs_input_grad,
      bool needs_weight_grads, bool allow_tf32) {
    const VariantInputGrads grads =
        backward({x, h_0, c_0, std::move(weights), reverse, lengths, reset, zoneout_h_mask, zoneout_c_mask,
                  recurrent_mask, zoneout_h, zoneout_c, cell_clip, peephole, layer_norm, allow_tf32},
                 {grad_h, grad_cells, grad_h_n, grad_c_n}, reserve, needs_input_grad, needs_weight_grads);
    return {grads.x, grads.h_0, grads.c_0, grads.weights};
  }
};

template <class Ops>
void implement_variants(torch::stable::detail::StableLibrary& m) {
  m.impl("variant", TORCH_BOX(&Ops::run_forward));
  m.impl("variant_backward", TORCH_BOX(&Ops::run_backward));
}

inline void define_variants(torch::stable::detail::StableLibrary& m) {
  for (const char* schema : {kVariantSchema, kVariantBackwardSchema}) m.def(schema);
}

}  // namespace lstm_fused
