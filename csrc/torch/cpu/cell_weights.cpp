#include "torch/cpu/weight_gradients.h"
#include "torch/lstm_cell.h"

namespace lstm_fused {
namespace {

template <class T>
std::vector<Tensor> weight_gradients_of(const Stack& stack, const CellRows& rows) {
  const Tensor input = dense(rows.input, kScalarType<T>), h_0 = dense(rows.h_0, kScalarType<T>);
  const Parallel parallel = torch_threads();
  WeightGradients<T> gradients(stack, stack.input_size, input, /*one_range=*/true, parallel);
  gradients.add(stack.batch, {const_data<void>(rows.grad_gates), kernel_type(kScalarType<T>)}, const_data<T>(input),
                const_data<T>(h_0), nullptr, nullptr);
  std::vector<Tensor> results;
  gradients.append_to(results);
  return results;
}

}  // namespace

std::vector<Tensor> cell_weight_gradients_cpu(const CellRows& rows, const std::vector<Tensor>& weights) {
  // As one step of all rows; c_0 is not looked at.
  const Stack stack =
      Stack::of_forward(Platform::kCpu, as_call({rows.input, rows.h_0, rows.h_0, weights, false}), /*training=*/true);
  const Tensor& grad = rows.grad_gates;
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == stack.batch && grad.size(1) == kNumGates * stack.hidden_size &&
                      grad.is_contiguous() && grad.is_cpu(),
                  "lstm_fused: grad_gates must be (N, 4H) and contiguous");
  STD_TORCH_CHECK(has_type(grad, stack.compute_dtype), "lstm_fused: grad_gates has another dtype than expected");
  return stack.dtype == ScalarType::Double ? weight_gradients_of<double>(stack, rows)
                                           : weight_gradients_of<float>(stack, rows);
}

}  // namespace lstm_fused
