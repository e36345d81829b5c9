// The ops of this library, as torch calls them: schemas and flat arguments. Their meaning is in lstm_fused/ops.py.
#pragma once

#include <tuple>
#include <utility>

#include "torch/lstm_cell.h"

namespace lstm_fused {

// SymInt where a size may be symbolic; none is passed yet.
constexpr const char* kForwardSchema =
    "forward(Tensor input, Tensor h_0, Tensor c_0, Tensor[] weights, bool bidirectional, Tensor? lengths, "
    "Tensor? reset, Tensor? dropout_mask, bool training, bool return_cells, bool allow_tf32, "
    "bool recompute_gates=False) -> "
    "(Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor reserve)";
// Forward without gradients and masks: fewer arguments to bring from Python.
constexpr const char* kInferSchema =
    "infer(Tensor input, Tensor? h_0, Tensor? c_0, Tensor[] weights, int num_layers, bool bidirectional, "
    "bool allow_tf32) -> (Tensor output, Tensor h_n, Tensor c_n)";
constexpr const char* kBackwardSchema =
    "backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor? grad_cells, Tensor input, Tensor h_0, "
    "Tensor c_0, Tensor[] weights, bool bidirectional, Tensor? lengths, Tensor? reset, Tensor? dropout_mask, "
    "Tensor reserve, bool needs_input_grad, bool needs_weight_grads, bool allow_tf32, bool needs_state_grads=True) -> "
    "(Tensor grad_input, Tensor grad_h_0, Tensor grad_c_0, Tensor[] grad_weights)";

constexpr const char* kCellSchema =
    "cell(Tensor input, Tensor? h_0, Tensor? c_0, Tensor[] weights, bool training, bool allow_tf32) -> "
    "(Tensor h, Tensor c, Tensor reserve)";
constexpr const char* kCellBackwardSchema =
    "cell_backward(Tensor? grad_h, Tensor? grad_c, Tensor input, Tensor? h_0, Tensor? c_0, Tensor[] weights, "
    "Tensor reserve, bool needs_input_grad, bool needs_weight_grads, bool needs_state_grads, bool allow_tf32) -> "
    "(Tensor grad_input, Tensor grad_h_0, Tensor grad_c_0, Tensor[] grad_weights)";

// For a loop of cells: what their steps leave, and of all of them the gradients of the weights. On the CPU.
constexpr const char* kCellBackwardGatesSchema =
    "cell_backward_gates(Tensor? grad_h, Tensor? grad_c, Tensor input, Tensor? h_0, Tensor? c_0, Tensor[] weights, "
    "Tensor reserve, bool needs_input_grad, bool needs_state_grads) -> "
    "(Tensor grad_input, Tensor grad_h_0, Tensor grad_c_0, Tensor grad_gates)";
constexpr const char* kCellWeightGradsSchema =
    "cell_weight_grads(Tensor grad_gates, Tensor input, Tensor h_0, Tensor[] weights) -> Tensor[]";

// A tensor that nobody asked for is (0,).
inline Tensor or_none(const OptionalTensor& tensor, const Tensor& like) {
  return tensor ? *tensor : empty({0}, like, like.scalar_type());
}

using GradTuple = std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>>;
inline GradTuple as_tuple(const InputGrads& grads, const Tensor& input) {
  return {or_none(grads.input, input), or_none(grads.h_0, input), or_none(grads.c_0, input), grads.weights};
}

// On one platform.
template <Forward forward, Backward backward>
struct Ops {
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> run_forward(Tensor input, Tensor h_0, Tensor c_0,
                                                                        std::vector<Tensor> weights, bool bidirectional,
                                                                        OptionalTensor lengths, OptionalTensor reset,
                                                                        OptionalTensor dropout_mask, bool training,
                                                                        bool return_cells, bool allow_tf32,
                                                                        bool recompute_gates) {
    const Options options{.bidirectional = bidirectional,
                          .lengths = lengths,
                          .reset = reset,
                          .dropout_mask = dropout_mask,
                          .return_cells = return_cells,
                          .recompute_gates = recompute_gates,
                          .allow_tf32 = allow_tf32};
    const auto [output, h_n, c_n, cells, reserve] = forward({input, h_0, c_0, std::move(weights), options}, training);
    return {output, h_n, c_n, or_none(cells, input), or_none(reserve, input)};
  }

  static GradTuple run_backward(OptionalTensor grad_output, OptionalTensor grad_h_n, OptionalTensor grad_c_n,
                                OptionalTensor grad_cells, Tensor input, Tensor h_0, Tensor c_0,
                                std::vector<Tensor> weights, bool bidirectional, OptionalTensor lengths,
                                OptionalTensor reset, OptionalTensor dropout_mask, Tensor reserve,
                                bool needs_input_grad, bool needs_weight_grads, bool allow_tf32,
                                bool needs_state_grads) {
    const Options options{.bidirectional = bidirectional,
                          .lengths = lengths,
                          .reset = reset,
                          .dropout_mask = dropout_mask,
                          .allow_tf32 = allow_tf32};
    const OutputGrads grads{grad_output, grad_h_n, grad_c_n, grad_cells};
    const Needs needs{.input = needs_input_grad, .weights = needs_weight_grads, .states = needs_state_grads};
    return as_tuple(backward({input, h_0, c_0, std::move(weights), options}, grads, reserve, needs), input);
  }

  static std::tuple<Tensor, Tensor, Tensor> infer(Tensor input, OptionalTensor h_0, OptionalTensor c_0,
                                                  std::vector<Tensor> weights, int64_t num_layers, bool bidirectional,
                                                  bool allow_tf32) {
    const Options options{.bidirectional = bidirectional, .allow_tf32 = allow_tf32};
    const Outputs outputs = forward(complete(input, h_0, c_0, std::move(weights), options, num_layers), false);
    return {outputs.output, outputs.h_n, outputs.c_n};
  }

  static std::tuple<Tensor, Tensor, Tensor> cell(Tensor input, OptionalTensor h_0, OptionalTensor c_0,
                                                 std::vector<Tensor> weights, bool training, bool allow_tf32) {
    const auto [h, c, reserve] = run_cell(forward, {input, h_0, c_0, std::move(weights), allow_tf32}, training);
    return {h, c, or_none(reserve, input)};
  }

  static GradTuple cell_backward(OptionalTensor grad_h, OptionalTensor grad_c, Tensor input, OptionalTensor h_0,
                                 OptionalTensor c_0, std::vector<Tensor> weights, Tensor reserve, bool needs_input_grad,
                                 bool needs_weight_grads, bool needs_state_grads, bool allow_tf32) {
    const Needs needs{.input = needs_input_grad, .weights = needs_weight_grads, .states = needs_state_grads};
    const CellCall call{input, h_0, c_0, std::move(weights), allow_tf32};
    return as_tuple(run_cell_backward(backward, call, {grad_h, grad_c}, reserve, needs), input);
  }
};

template <class Ops>
void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("forward", TORCH_BOX(&Ops::run_forward));
  m.impl("infer", TORCH_BOX(&Ops::infer));
  m.impl("backward", TORCH_BOX(&Ops::run_backward));
  m.impl("cell", TORCH_BOX(&Ops::cell));
  m.impl("cell_backward", TORCH_BOX(&Ops::cell_backward));
}

inline void define_ops(torch::stable::detail::StableLibrary& m) {
  for (const char* schema : {kForwardSchema, kInferSchema, kBackwardSchema, kCellSchema, kCellBackwardSchema,
                             kCellBackwardGatesSchema, kCellWeightGradsSchema})
    m.def(schema);
}

}  // namespace lstm_fused
