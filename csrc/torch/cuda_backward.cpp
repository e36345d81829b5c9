#include <algorithm>

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
                        const Tensor& reserve, bool needs_input_grad, bool needs_weight_grads, bool allow_tf32) {
  using Cell = Accumulator<T>;
  const DeviceScope scope(input);
  const ScalarType type = stack.dtype;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1, projected_rows = stack.has_projection ? rows : 0;
  const LayerShape shape = stack.layer_shape(lengths, reset);

  const Tensor h_first = dense(h_0, type), c_first = dense(c_0, type);
  const OptionalTensor grad_h_last = dense(grad_h_n, type), grad_c_last = dense(grad_c_n, type);
  const OptionalTensor grad_all_cells = dense(grad_cells, type);
  const Tensor grad_h_0 = empty({stack.num_layers * directions, stack.batch, stack.proj_width}, input, type);
  const Tensor grad_c_0 = empty({stack.num_layers * directions, stack.batch, hidden}, input, type);

  const auto mask_of = [&](int64_t layer) {
    return layer > 0 && dropout_mask ? OptionalTensor(stack.mask(dropout_mask, layer, type)) : std::nullopt;
  };
  const auto input_of = [&](int64_t layer, const OptionalTensor& mask) {
    Tensor x = layer > 0 ? stack.layer_output(reserve, layer - 1) : dense(input, type);
    if (layer == 0 && lengths) x = without_padding(stack, x, *lengths);
    x = torch::stable::view(x, {rows, stack.layer_input_size(layer)});
    return mask ? multiply(x, *mask) : x;
  };

  std::vector<std::vector<Tensor>> weight_gradients(stack.num_layers);
  OptionalTensor grad_layer_output = dense(grad_output, type);  // (T, B, D*P)
  Tensor grad_x = empty({0}, input, type);
  for (int64_t top = last_layer, layers = 1; top >= 0; top -= layers) {
    LayerKernel::Pass pass = layer_kernel(stack, top, /*training=*/true, allow_tf32, scope.device()).backward;
    // Gates are regenerated to save memory: those of one layer at a time.
    layers = pass.launch.num_layers = stack.keeps_gates ? std::min(pass.launch.num_layers, top + 1) : 1;
    const bool steps = pass.launch.kind == KernelKind::kStep;
    const GroupMemory memory(pass.launch, shape, /*backward=*/true, input);
    std::vector<BackwardParams<T, Cell>> params(layers * directions);
    std::vector<DirectionWeights> weights;
    std::vector<GateGradients> gradients;
    std::vector<OptionalTensor> masks, inputs;  // of each layer, from above
    std::vector<OptionalTensor> of_step;        // what `step` needs beyond others, and params do not own
    for (int64_t n = 0; n < layers * directions; ++n) {
      const int64_t layer = top - n / directions, d = n % directions;
      const Tensor layer_output = stack.layer_output(reserve, layer);
      if (d == 0) {
        masks.push_back(mask_of(layer));
        inputs.push_back(stack.keeps_gates ? OptionalTensor() : input_of(layer, masks.back()));
      }
      weights.push_back(stack.weights(all_weights, layer, d));
      const DirectionWeights& w = weights.back();
      gradients.push_back({empty({rows, kNumGates * hidden}, input, type), empty({rows, stack.proj_width}, input, type),
                           empty({projected_rows, stack.proj_width}, input, type),
                           empty({projected_rows, hidden}, input, type)});
      const GateGradients& g = gradients.back();
      const Tensor gates = stack.keeps_gates ? stack.gates(reserve, layer, d) : g.grad_gates;
      if (!stack.keeps_gates)
        regenerate_gates(stack, layer, d, w, *inputs.back(), h_first, layer_output, lengths, reset, g.h_prev, gates,
                         [](const Tensor& y, const Tensor& x, const Tensor& w) { mm_out(y, x, transposed(w)); });
      const int64_t state = (layer * directions + d) * stack.batch, h_state = state * stack.proj_width,
                    c_state = state * hidden;
      const bool has_grad_output = layer == top && grad_layer_output,
                 has_grad_cells = layer == last_layer && grad_all_cells;
      params[n] = {
          /*reverse=*/d == 1,
          const_data<T>(w.w_hh),
          const_data<T>(w.w_hr),
          const_data<T>(h_first) + h_state,
          const_data<T>(c_first) + c_state,
          const_data<T>(gates),
          const_data<Cell>(stack.cells(reserve, layer, d)),
          const_data<T>(layer_output) + d * stack.proj_width,
          has_grad_output ? const_data<T>(grad_layer_output) + d * stack.proj_width : nullptr,
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
          memory.exchange(n),
          memory.arrivals(n),
          const_data<T>(w.w_ih),
          const_data<T>(masks.back()),
      };
    }
    const auto grad_x_of = [&](int64_t nth_layer) {
      const auto of_direction = [&](int64_t d) {
        const int64_t n = nth_layer * directions + d;
        const Tensor result = empty({rows, stack.layer_input_size(top - nth_layer)}, input, type);
        mm_out(result, gradients[n].grad_gates, weights[n].w_ih);
        return result;
      };
      const Tensor result = directions == 1 ? of_direction(0) : add(of_direction(0), of_direction(1));
      return masks[nth_layer] ? multiply(result, *masks[nth_layer]) : result;
    };
    const auto for_step = [&](int64_t n) {
      const Tensor grad_c = empty({stack.batch, hidden}, input, stack.cell_dtype);
      const Tensor w_hh_t = dense(transposed(weights[n].w_hh), type);
      OptionalTensor w_hr_t, from_above;
      if (weights[n].w_hr) w_hr_t = dense(transposed(*weights[n].w_hr), type);
      params[n].grad_c = data<Cell>(grad_c);
      params[n].w_hh_t = const_data<T>(w_hh_t);
      params[n].w_hr_t = const_data<T>(w_hr_t);
      if (n >= directions) {
        from_above = grad_x_of(n / directions - 1);
        params[n].grad_output = const_data<T>(from_above);
      }
      of_step.insert(of_step.end(), {grad_c, w_hh_t, w_hr_t, from_above});
    };
    for (int64_t n = 0; steps && n < directions; ++n) for_step(n);
    run(pass, shape, params.data(), sizeof(params[0]), scope.stream(), for_step);

    for (int64_t n = 0; needs_weight_grads && n < layers * directions; ++n) {
      OptionalTensor& x = inputs[n / directions];
      const int64_t layer = top - n / directions;
      if (!x) x = input_of(layer, masks[n / directions]);
      append_weight_gradients(stack, gradients[n], *x, weight_gradients[layer]);
      if (n % directions == directions - 1) x.reset();
    }
    if (top - layers >= 0 || needs_input_grad) grad_layer_output = grad_x = grad_x_of(layers - 1);
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
                             OptionalTensor reset, OptionalTensor dropout_mask, Tensor reserve, bool needs_input_grad,
                             bool needs_weight_grads, bool allow_tf32, bool needs_state_grads) {
  Stack stack(Platform::kCuda, input, h_0, c_0, weights, bidirectional);
  stack.look_at(reserve);
  stack.check_masks(lengths, reset, dropout_mask);
  stack.check_gradients(grad_output, grad_h_n, grad_c_n, grad_cells, reserve);
  const auto run = by_type(stack.dtype, backward<float16>, backward<bfloat16>, backward<float>, backward<double>);
  BackwardResult result = run(stack, grad_output, grad_h_n, grad_c_n, grad_cells, input, h_0, c_0, weights, lengths,
                              reset, dropout_mask, reserve, needs_input_grad, needs_weight_grads, allow_tf32);
  if (!needs_state_grads) std::get<1>(result) = std::get<2>(result) = empty({0}, input, stack.dtype);
  return result;
}

}  // namespace lstm_fused
