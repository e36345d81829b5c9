#include "torch/lstm_cell.h"

#include <array>

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
  const int64_t batch = result.size(1), size = result.size(2);
  return batched ? with_sizes(result, {batch, size}) : with_sizes(result, {size});
}

OptionalTensor of_cell(const OptionalTensor& result, bool batched) {
  return result ? OptionalTensor(of_cell(*result, batched)) : result;
}

}  // namespace

Call as_call(const CellCall& cell) {
  for (const OptionalTensor& state : {cell.h_0, cell.c_0})
    STD_TORCH_CHECK(!state || state->dim() == cell.input.dim(),
                    "lstm_fused: states of a cell must be as many-dimensional as input");
  return complete(as_step(cell.input), as_step(cell.h_0), as_step(cell.c_0), cell.weights,
                  {.allow_tf32 = cell.allow_tf32}, /*num_layers=*/1);
}

CellOutputs run_cell(Forward* forward, const CellCall& cell, bool training) {
  const bool batched = cell.input.dim() == 2;
  const Outputs outputs = forward(as_call(cell), training);
  return {of_cell(outputs.h_n, batched), of_cell(outputs.c_n, batched), outputs.reserve};
}

InputGrads run_cell_backward(Backward* backward, const CellCall& cell, const CellGrads& grads, const Tensor& reserve,
                             Needs needs) {
  const bool batched = cell.input.dim() == 2;
  InputGrads found = backward(as_call(cell), {.h_n = as_step(grads.h), .c_n = as_step(grads.c)}, reserve, needs);
  for (OptionalTensor* grad : {&found.input, &found.h_0, &found.c_0}) *grad = of_cell(*grad, batched);
  return found;
}

}  // namespace lstm_fused
