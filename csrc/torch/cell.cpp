// The ops of LSTMCell: one step without a dimension for time, which is a call of a stack's ops on the same memory.
#include "torch/ops.h"
#include "torch/stack.h"

namespace lstm_fused {
namespace {

// The same memory in other sizes, contiguous like the tensor: no view that torch knows of, so that a result may be
// changed and detached in place.
Tensor with_sizes(const Tensor& tensor, SizeList sizes) {
  std::array<int64_t, 3> strides{};
  int64_t stride = 1;
  for (size_t n = sizes.size(); n-- > 0; stride *= sizes[n]) strides[n] = stride;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), static_cast<int64_t>(sizes.size()), sizes.data(),
                                                        strides.data(), 0, &handle));
  return Tensor(handle);
}

// (B, size) or (size,) as (1, B, size).
Tensor as_step(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 1 || tensor.dim() == 2, "lstm_fused: input and states of a cell must be 1-D or 2-D");
  const bool batched = tensor.dim() == 2;
  return with_sizes(tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor),
                    {1, batched ? tensor.size(0) : 1, tensor.size(batched)});
}

OptionalTensor as_step(const OptionalTensor& tensor) { return tensor ? OptionalTensor(as_step(*tensor)) : tensor; }

// Back again.
Tensor of_cell(const Tensor& result, bool batched) {
  if (result.dim() != 3) return result;
  const int64_t batch = result.size(1), size = result.size(2);
  return batched ? with_sizes(result, {batch, size}) : with_sizes(result, {size});
}

void check_state(const OptionalTensor& state, const Tensor& input) {
  STD_TORCH_CHECK(!state || state->dim() == input.dim(),
                  "lstm_fused: states of a cell must be as many-dimensional as input");
}

CellResult cell(Forward* forward, const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0,
                const std::vector<Tensor>& weights, bool training, bool allow_tf32) {
  check_state(h_0, input), check_state(c_0, input);
  const bool batched = input.dim() == 2;
  const Tensor step = as_step(input);
  OptionalTensor h_first = as_step(h_0), c_first = as_step(c_0);
  fill_in_states(h_first, c_first, step, weights, 1);
  const auto [output, h_n, c_n, cells, reserve] =
      forward(step, *h_first, *c_first, weights, /*bidirectional=*/false, {}, {}, {}, training,
              /*return_cells=*/false, allow_tf32, /*recompute_gates=*/false);
  return {of_cell(h_n, batched), of_cell(c_n, batched), reserve};
}

CellBackwardResult cell_backward(Backward* backward, const OptionalTensor& grad_h, const OptionalTensor& grad_c,
                                 const Tensor& input, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                 const std::vector<Tensor>& weights, const Tensor& reserve, bool needs_input_grad,
                                 bool needs_weight_grads, bool needs_state_grads, bool allow_tf32) {
  check_state(h_0, input), check_state(c_0, input);
  const bool batched = input.dim() == 2;
  const Tensor step = as_step(input);
  OptionalTensor h_first = as_step(h_0), c_first = as_step(c_0);
  fill_in_states(h_first, c_first, step, weights, 1);
  const auto [grad_input, grad_h_0, grad_c_0, grad_weights] =
      backward({}, as_step(grad_h), as_step(grad_c), {}, step, *h_first, *c_first, weights, /*bidirectional=*/false, {},
               {}, {}, reserve, needs_input_grad, needs_weight_grads, allow_tf32, needs_state_grads);
  return {of_cell(grad_input, batched), of_cell(grad_h_0, batched), of_cell(grad_c_0, batched), grad_weights};
}

}  // namespace

CellResult cell_cpu(Tensor input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights, bool training,
                    bool allow_tf32) {
  return cell(forward_cpu, input, h_0, c_0, weights, training, allow_tf32);
}

CellBackwardResult cell_backward_cpu(OptionalTensor grad_h, OptionalTensor grad_c, Tensor input, OptionalTensor h_0,
                                     OptionalTensor c_0, std::vector<Tensor> weights, Tensor reserve,
                                     bool needs_input_grad, bool needs_weight_grads, bool needs_state_grads,
                                     bool allow_tf32) {
  return cell_backward(backward_cpu, grad_h, grad_c, input, h_0, c_0, weights, reserve, needs_input_grad,
                       needs_weight_grads, needs_state_grads, allow_tf32);
}

#ifdef LSTM_FUSED_CUDA
CellResult cell_cuda(Tensor input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights, bool training,
                     bool allow_tf32) {
  return cell(forward_cuda, input, h_0, c_0, weights, training, allow_tf32);
}

CellBackwardResult cell_backward_cuda(OptionalTensor grad_h, OptionalTensor grad_c, Tensor input, OptionalTensor h_0,
                                      OptionalTensor c_0, std::vector<Tensor> weights, Tensor reserve,
                                      bool needs_input_grad, bool needs_weight_grads, bool needs_state_grads,
                                      bool allow_tf32) {
  return cell_backward(backward_cuda, grad_h, grad_c, input, h_0, c_0, weights, reserve, needs_input_grad,
                       needs_weight_grads, needs_state_grads, allow_tf32);
}
#endif

}  // namespace lstm_fused
