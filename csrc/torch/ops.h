// The ops of this library; their meaning is in lstm_fused/ops.py.
#pragma once

#include <tuple>

#include "torch/tensors.h"

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

// output (T, B, D*P), h_n (L*D, B, P), c_n (L*D, B, H), cells (T, B, D*H) or (0,), reserve (N,) or (0,)
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using Forward = ForwardResult(Tensor input, Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool bidirectional,
                              OptionalTensor lengths, OptionalTensor reset, OptionalTensor dropout_mask, bool training,
                              bool return_cells, bool allow_tf32, bool recompute_gates);

// As Forward. A state that is not given is zero.
using InferResult = std::tuple<Tensor, Tensor, Tensor>;
using Infer = InferResult(Tensor input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights,
                          int64_t num_layers, bool bidirectional, bool allow_tf32);

// grad_input (T, B, I) or (0,), grad_h_0 and grad_c_0 or (0,), and the gradients of the weights in their order, or none
using BackwardResult = std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>>;
using Backward = BackwardResult(OptionalTensor grad_output, OptionalTensor grad_h_n, OptionalTensor grad_c_n,
                                OptionalTensor grad_cells, Tensor input, Tensor h_0, Tensor c_0,
                                std::vector<Tensor> weights, bool bidirectional, OptionalTensor lengths,
                                OptionalTensor reset, OptionalTensor dropout_mask, Tensor reserve,
                                bool needs_input_grad, bool needs_weight_grads, bool allow_tf32,
                                bool needs_state_grads);

// One step, of input (B, I) or (I,): h and c, (B, H) or (H,), and the reserve.
using CellResult = std::tuple<Tensor, Tensor, Tensor>;
using Cell = CellResult(Tensor input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights,
                        bool training, bool allow_tf32);
using CellBackwardResult = BackwardResult;
using CellBackward = CellBackwardResult(OptionalTensor grad_h, OptionalTensor grad_c, Tensor input, OptionalTensor h_0,
                                        OptionalTensor c_0, std::vector<Tensor> weights, Tensor reserve,
                                        bool needs_input_grad, bool needs_weight_grads, bool needs_state_grads,
                                        bool allow_tf32);

std::vector<int64_t> stream_facts();  // csrc/torch/cpu_stream.cpp

Forward forward_cpu, forward_cuda;
Infer infer_cpu, infer_cuda;
Backward backward_cpu, backward_cuda;
Cell cell_cpu, cell_cuda;
CellBackward cell_backward_cpu, cell_backward_cuda;

}  // namespace lstm_fused
