#include "torch/cuda.h"
#include "torch/ops.h"
#include "torch/regenerate.h"
#include "torch/stream.h"

namespace lstm_fused {
namespace {

// What backward of one direction of a layer leaves behind for the large products.
struct GateGradients {
  Tensor grad_gates;      // (T*B, 4H)
  Tensor h_prev;          // (T*B, P)
  Tensor grad_h, hidden;  // (T*B, P), (T*B, H), empty without a projection
};

// Appends the gradients of w_ih, w_hh, [b_ih, b_hh], [w_hr].
void append_weight_gradients(const Stack& stack, const GateGradients& g, const Tensor& x,
                             std::vector<Tensor>& gradients) {
  const auto product = [&](const Tensor& grad, const Tensor& factor) {
    const Tensor result = empty({grad.size(1), factor.size(1)}, x, stack.dtype);
    mm_out(result, transposed(grad), factor);
    gradients.push_back(result);
  };
  product(g.grad_gates, x);
  product(g.grad_gates, g.h_prev);
  if (stack.has_biases) {
    // Autocast makes float32 of a sum.
    const Tensor bias = dense(torch::stable::sum(g.grad_gates, std::vector<int64_t>{0}), stack.dtype);
    gradients.push_back(bias);
    gradients.push_back(torch::stable::clone(bias));
  }
  if (stack.has_projection) product(g.grad_h, g.hidden);
}

// A copy with zeros past each row's length: what lies there was never read, and zero times NaN would not be zero.
Tensor without_padding(const Stack& stack, const Tensor& input, const Tensor& lengths) {
  const Tensor exists = call_operator("aten::le", "Tensor", counted_steps(stack.seq_len, lengths), lengths);  // (T, B)
  return call_operator("aten::where", "self", torch::stable::view(exists, {stack.seq_len, stack.batch, 1}), input,
                       torch::stable::new_zeros(input, {1}));
}

template <class T>
BackwardResult backward(const Stack& stack, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                        const OptionalTensor& grad_c_n, const OptionalTensor& grad_cells, const Tensor& input,
                        const Tensor& h_0, const Tensor& c_0, const std::vector<Tensor>& all_weights,
                        const OptionalTensor& lengths, const OptionalTensor& reset, const OptionalTensor& dropout_mask,
                        const Tensor& output, const Tensor& reserve, bool needs_input_grad, bool needs_weight_grads,
                        bool allow_tf32) {
  using Cell = Accumulator<T>;
  const DeviceScope scope(input);
  const ScalarType type = stack.dtype;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1, projected_rows = stack.has_projection ? rows : 0;
  const LayerShape shape = stack.layer_shape(lengths, reset);

  const Tensor h_first = dense(h_0, type), c_first = dense(c_0, type), last_output = dense(output, type);
  const OptionalTensor grad_h_last = dense(grad_h_n, type), grad_c_last = dense(grad_c_n, type);
  const OptionalTensor grad_all_cells = dense(grad_cells, type);
  const Tensor grad_h_0 = empty({stack.num_layers * directions, stack.batch, stack.proj_width}, input, type);
  const Tensor grad_c_0 = empty({stack.num_layers * directions, stack.batch, hidden}, input, type);

  std::vector<std::vector<Tensor>> weight_gradients(stack.num_layers);
  OptionalTensor grad_layer_output = dense(grad_output, type);  // (T, B, D*P)
  Tensor grad_x = empty({0}, input, type);
  for (int64_t layer = last_layer; layer >= 0; --layer) {
    const LayerKernel kernel = layer_kernel(stack, layer, 1, /*training=*/true, allow_tf32, scope.device());
    const bool steps = kernel.launch.kind == KernelKind::kStep;
    const Tensor layer_output = layer == last_layer ? last_output : stack.layer_output(reserve, layer);
    OptionalTensor mask, x;
    if (layer > 0 && dropout_mask) mask = stack.mask(dropout_mask, layer, type);
    if (needs_weight_grads || !stack.keeps_gates) {
      x = layer > 0 ? stack.layer_output(reserve, layer - 1) : dense(input, type);
      if (layer == 0 && lengths) x = without_padding(stack, *x, *lengths);
      x = torch::stable::view(*x, {rows, stack.layer_input_size(layer)});
      if (mask) x = multiply(*x, *mask);
    }
    const GroupMemory memory(kernel.launch, shape, /*backward=*/true, input);
    BackwardParams<T, Cell> params[2];
    std::vector<DirectionWeights> weights;
    std::vector<GateGradients> gradients;
    std::vector<OptionalTensor> of_step;  // what `step` needs beyond others: for c, and weights transposed
    for (int64_t d = 0; d < directions; ++d) {
      weights.push_back(stack.weights(all_weights, layer, d));
      const DirectionWeights& w = weights.back();
      gradients.push_back({empty({rows, kNumGates * hidden}, input, type), empty({rows, stack.proj_width}, input, type),
                           empty({projected_rows, stack.proj_width}, input, type),
                           empty({projected_rows, hidden}, input, type)});
      const GateGradients& g = gradients.back();
      const Tensor gates = stack.keeps_gates ? stack.gates(reserve, layer, d) : g.grad_gates;
      if (!stack.keeps_gates)
        regenerate_gates(stack, layer, d, w, *x, h_first, layer_output, lengths, reset, g.h_prev, gates);
      const int64_t state = (layer * directions + d) * stack.batch, h_state = state * stack.proj_width,
                    c_state = state * hidden;
      const bool has_grad_cells = grad_all_cells && layer == last_layer;
      params[d] = {
          /*reverse=*/d == 1,
          const_data<T>(w.w_hh),
          const_data<T>(w.w_hr),
          const_data<T>(h_first) + h_state,
          const_data<T>(c_first) + c_state,
          const_data<T>(gates),
          const_data<Cell>(stack.cells(reserve, layer, d)),
          const_data<T>(layer_output) + d * stack.proj_width,
          grad_layer_output ? const_data<T>(grad_layer_output) + d * stack.proj_width : nullptr,
          has_grad_cells ? const_data<T>(grad_all_cells) + d * hidden : nullptr,
          /*grad_cells_stride=*/directions * hidden,
          grad_h_last ? const_data<T>(grad_h_last) + h_state : nullptr,
          grad_c_last ? const_data<T>(grad_c_last) + c_state : nullptr,
          data<T>(g.grad_gates),
          data<T>(g.h_prev),
          stack.has_projection ? data<T>(g.hidden) : nullptr,
          stack.has_projection ? data<T>(g.grad_h) : nullptr,
          data<T>(grad_h_0) + h_state,
          data<T>(grad_c_0) + c_state,
          /*grad_c=*/nullptr,
          /*w_hh_t=*/nullptr,
          /*w_hr_t=*/nullptr,
          memory.exchange(d),
          memory.arrivals(d),
      };
    }
    const auto for_step = [&](int64_t d) {
      const Tensor grad_c = empty({stack.batch, hidden}, input, stack.cell_dtype);
      const Tensor w_hh_t = dense(transposed(weights[d].w_hh), type);
      OptionalTensor w_hr_t;
      if (weights[d].w_hr) w_hr_t = dense(transposed(*weights[d].w_hr), type);
      params[d].grad_c = data<Cell>(grad_c);
      params[d].w_hh_t = const_data<T>(w_hh_t);
      params[d].w_hr_t = const_data<T>(w_hr_t);
      of_step.insert(of_step.end(), {grad_c, w_hh_t, w_hr_t});
    };
    for (int64_t d = 0; steps && d < directions; ++d) for_step(d);
    run(kernel.backward, kernel.launch, shape, params, sizeof(params[0]), scope.stream(), for_step);

    for (const GateGradients& g : gradients)
      if (needs_weight_grads) append_weight_gradients(stack, g, *x, weight_gradients[layer]);
    if (layer == 0 && !needs_input_grad) continue;
    const auto grad_x_of = [&](int64_t d) {
      const Tensor result = empty({rows, stack.layer_input_size(layer)}, input, type);
      mm_out(result, gradients[d].grad_gates, weights[d].w_ih);
      return result;
    };
    grad_x = directions == 1 ? grad_x_of(0) : add(grad_x_of(0), grad_x_of(1));
    if (mask) grad_x = multiply(grad_x, *mask);
    grad_layer_output = grad_x;
  }

  std::vector<Tensor> grad_weights;
  for (const auto& of_layer : weight_gradients)
    grad_weights.insert(grad_weights.end(), of_layer.begin(), of_layer.end());
  if (needs_input_grad)
    grad_x = torch::stable::view(grad_x, {stack.seq_len, stack.batch, stack.input_size});
  else
    grad_x = empty({0}, input, type);
  return {grad_x, grad_h_0, grad_c_0, grad_weights};
}

}  // namespace

BackwardResult backward_cuda(OptionalTensor grad_output, OptionalTensor grad_h_n, OptionalTensor grad_c_n,
                             OptionalTensor grad_cells, Tensor input, Tensor h_0, Tensor c_0,
                             std::vector<Tensor> weights, bool bidirectional, OptionalTensor lengths,
                             OptionalTensor reset, OptionalTensor dropout_mask, Tensor output, Tensor reserve,
                             bool needs_input_grad, bool needs_weight_grads, bool allow_tf32) {
  Stack stack(Platform::kCuda, input, h_0, c_0, weights, bidirectional);
  stack.look_at(reserve);
  stack.check_masks(lengths, reset, dropout_mask);
  stack.check_gradients(grad_output, grad_h_n, grad_c_n, grad_cells, output, reserve);
  const auto run = by_type(stack.dtype, backward<float16>, backward<bfloat16>, backward<float>, backward<double>);
  return run(stack, grad_output, grad_h_n, grad_c_n, grad_cells, input, h_0, c_0, weights, lengths, reset, dropout_mask,
             output, reserve, needs_input_grad, needs_weight_grads, allow_tf32);
}

}  // namespace lstm_fused
