#include <algorithm>

#include "torch/cpu.h"
#include "torch/ops.h"
#include "torch/regenerate.h"

namespace lstm_fused {
namespace {

// What backward of one direction of a layer leaves behind for the large products.
struct GateGradients {
  Tensor grad_gates;      // (T*B, 4H)
  Tensor h_prev;          // (T*B, P)
  Tensor grad_h, hidden;  // (T*B, P), (T*B, H), empty without a projection
};

// Of regenerate_gates.
template <class T>
void multiply_by_transposed(const Tensor& y, const Tensor& x, const Tensor& w) {
  multiply_matrices<T>({x.size(0), w.size(0), x.size(1), const_data<T>(x), /*a_transposed=*/false, const_data<void>(w),
                        /*b_transposed=*/true, kernel_type(kScalarType<T>), data<T>(y)},
                       x);
}

// Appends the gradients of w_ih, w_hh, [b_ih, b_hh], [w_hr] in the weights' dtype.
template <class T>
void append_weight_gradients(const Stack& stack, const GateGradients& g, const Tensor& x, const Parallel& parallel,
                             std::vector<Tensor>& gradients) {
  const ScalarType type = kScalarType<T>;
  const auto product = [&](const Tensor& grad, const Tensor& factor) {
    const int64_t y_width = grad.size(1), x_width = factor.size(factor.dim() - 1);
    const Tensor result = empty({y_width, x_width}, x, type);
    multiply_matrices<T>({y_width, x_width, stack.num_rows(), const_data<T>(grad), /*a_transposed=*/true,
                          const_data<void>(factor), /*b_transposed=*/false, kernel_type(type), data<T>(result)},
                         x);
    gradients.push_back(dense(result, stack.dtype));
  };
  product(g.grad_gates, x);
  product(g.grad_gates, g.h_prev);
  if (stack.has_biases) {
    const int64_t width = kNumGates * stack.hidden_size;
    const Tensor sums = empty({width}, x, type);
    cpu_kernels<T>().column_sums({stack.num_rows(), width, const_data<T>(g.grad_gates), data<T>(sums)}, parallel);
    const Tensor bias = dense(sums, stack.dtype);
    gradients.push_back(bias);
    gradients.push_back(torch::stable::clone(bias));
  }
  if (stack.has_projection) product(g.grad_h, g.hidden);
}

// A copy with zeros past each row's length: what lies there was never read, and zero times NaN would not be zero.
template <class T>
Tensor without_padding(const Stack& stack, const Tensor& input, const Tensor& lengths) {
  const Tensor result = torch::stable::clone(input);
  for (int64_t b = 0; b < stack.batch; ++b)
    for (int64_t t = const_data<int64_t>(lengths)[b]; t < stack.seq_len; ++t)
      std::fill_n(data<T>(result) + (t * stack.batch + b) * stack.input_size, stack.input_size, T(0));
  return result;
}

template <class T>
BackwardResult backward(const Stack& stack, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                        const OptionalTensor& grad_c_n, const OptionalTensor& grad_cells, const Tensor& input,
                        const Tensor& h_0, const Tensor& c_0, const std::vector<Tensor>& all_weights,
                        const OptionalTensor& lengths, const OptionalTensor& reset, const OptionalTensor& dropout_mask,
                        const Tensor& output, const Tensor& any_reserve, bool needs_input_grad,
                        bool needs_weight_grads) {
  const ScalarType type = kScalarType<T>;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1;
  const CpuSchedule schedule(stack);
  const CpuKernels<T>& kernels = cpu_kernels<T>();
  const LayerShape shape = stack.layer_shape(lengths, reset);

  const Tensor reserve = dense(any_reserve, type);
  const T* const kept = const_data<T>(reserve);
  const Tensor h_first = dense(h_0, type), c_first = dense(c_0, type), last_output = dense(output, type);
  const OptionalTensor grad_h_last = dense(grad_h_n, type), grad_c_last = dense(grad_c_n, type);
  const OptionalTensor grad_all_cells = dense(grad_cells, type);
  const Tensor grad_h_0 = empty({stack.num_layers * directions, stack.batch, stack.proj_width}, input, type);
  const Tensor grad_c_0 = empty({stack.num_layers * directions, stack.batch, hidden}, input, type);
  const Tensor workspace = empty({directions, kernels.backward_workspace(shape)}, input, type);

  std::vector<std::vector<Tensor>> weight_gradients(stack.num_layers);
  OptionalTensor grad_layer_output = dense(grad_output, type);  // (T, B, D*P)
  Tensor grad_x = empty({0}, input, type);
  for (int64_t layer = last_layer; layer >= 0; --layer) {
    const Tensor layer_output = layer == last_layer ? last_output : stack.layer_output(reserve, layer);
    const bool needs_grad_x = layer > 0 || needs_input_grad;
    const int64_t projected_rows = stack.has_projection ? rows : 0;
    OptionalTensor mask, x;
    if (layer > 0 && dropout_mask) mask = stack.mask(dropout_mask, layer, type);
    if (needs_weight_grads || !stack.keeps_gates) {
      x = layer > 0 ? stack.layer_output(reserve, layer - 1) : dense(input, type);
      if (layer == 0 && lengths && !stack.is_packed()) x = without_padding<T>(stack, *x, *lengths);
      if (!stack.keeps_gates) x = torch::stable::view(*x, {rows, stack.layer_input_size(layer)});
      if (mask) x = multiply(*x, *mask);
    }
    CpuBackwardParams<T> params[2];
    std::vector<DirectionWeights> weights;
    std::vector<GateGradients> gradients;
    weights.reserve(directions);
    for (int64_t d = 0; d < directions; ++d) {
      DirectionWeights& w = weights.emplace_back(stack.weights(all_weights, layer, d));
      // Kernels widen weights as they read them; regenerate_gates needs them wide.
      if (!stack.keeps_gates) w.convert_matrices(type);
      const GateGradients g = {
          empty({rows, kNumGates * hidden}, input, type), empty({rows, stack.proj_width}, input, type),
          empty({projected_rows, stack.proj_width}, input, type), empty({projected_rows, hidden}, input, type)};
      if (!stack.keeps_gates)
        regenerate_gates(stack, layer, d, w, *x, h_first, layer_output, lengths, reset, g.h_prev, g.grad_gates,
                         multiply_by_transposed<T>);
      const int64_t state = (layer * directions + d) * stack.batch, h_state = state * stack.proj_width,
                    c_state = state * hidden;
      const bool has_grad_cells = grad_all_cells && layer == last_layer;
      params[d] = {
          /*reverse=*/d == 1,
          const_data<void>(w.w_hh),
          const_data<void>(w.w_hr),
          const_data<T>(h_first) + h_state,
          const_data<T>(c_first) + c_state,
          stack.keeps_gates ? kept + stack.gates_begin(layer, d) : const_data<T>(g.grad_gates),
          kept + stack.cells_begin(layer, d),
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
      };
      params[d].weight_type = kernel_type(stack.keeps_gates ? stack.dtype : type);
      gradients.push_back(g);
    }
    kernels.backward(shape, params, static_cast<int>(directions), data<T>(workspace), schedule.split,
                     schedule.parallel);

    for (const GateGradients& g : gradients)
      if (needs_weight_grads) append_weight_gradients<T>(stack, g, *x, schedule.parallel, weight_gradients[layer]);
    if (!needs_grad_x) continue;
    const auto grad_x_of = [&](int64_t d) {
      const int64_t width = stack.layer_input_size(layer);
      const Tensor result = empty(layer > 0 ? Sizes{rows, width} : stack.by_step(width), input, type);
      multiply_matrices<T>({rows, width, kNumGates * hidden, const_data<T>(gradients[d].grad_gates),
                            /*a_transposed=*/false, const_data<void>(weights[d].w_ih), /*b_transposed=*/false,
                            params[d].weight_type, data<T>(result)},
                           input);
      return result;
    };
    grad_x = directions == 1 ? grad_x_of(0) : add(grad_x_of(0), grad_x_of(1));
    if (mask) grad_x = multiply(grad_x, *mask);
    grad_layer_output = grad_x;
  }

  std::vector<Tensor> grad_weights;
  for (const auto& of_layer : weight_gradients)
    grad_weights.insert(grad_weights.end(), of_layer.begin(), of_layer.end());
  if (!needs_input_grad) grad_x = empty({0}, input, type);
  return {dense(grad_x, stack.dtype), dense(grad_h_0, stack.dtype), dense(grad_c_0, stack.dtype), grad_weights};
}

}  // namespace

BackwardResult backward_cpu(OptionalTensor grad_output, OptionalTensor grad_h_n, OptionalTensor grad_c_n,
                            OptionalTensor grad_cells, Tensor input, Tensor h_0, Tensor c_0,
                            std::vector<Tensor> weights, bool bidirectional, OptionalTensor lengths,
                            OptionalTensor reset, OptionalTensor dropout_mask, Tensor output, Tensor reserve,
                            bool needs_input_grad, bool needs_weight_grads, bool /*allow_tf32*/) {
  Stack stack(Platform::kCpu, input, h_0, c_0, weights, bidirectional, lengths);
  stack.look_at(reserve);
  stack.check_masks(lengths, reset, dropout_mask);
  stack.check_gradients(grad_output, grad_h_n, grad_c_n, grad_cells, output, reserve);
  const auto run = stack.dtype == ScalarType::Double ? backward<double> : backward<float>;
  return run(stack, grad_output, grad_h_n, grad_c_n, grad_cells, input, h_0, c_0, weights, lengths, reset, dropout_mask,
             output, reserve, needs_input_grad, needs_weight_grads);
}

}  // namespace lstm_fused
