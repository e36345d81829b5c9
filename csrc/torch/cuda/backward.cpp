#include <algorithm>

#include "torch/call.h"
#include "torch/cuda/layer_kernel.h"
#include "torch/cuda/stream.h"
#include "torch/regenerate.h"

namespace lstm_fused {
namespace {

void activate_gates(const Tensor& gates, int64_t hidden_size) {
  const auto activate = [&](const char* function, int64_t first, int64_t count) {
    call_operator(function, "", part(gates, 1, first * hidden_size, count * hidden_size));
  };
  activate("aten::sigmoid_", 0, 2);  // i, f
  activate("aten::tanh_", 2, 1);     // g
  activate("aten::sigmoid_", 3, 1);  // o
}

// What backward of one direction of a layer leaves behind for the large products.
struct GateGradients {
  Tensor grad_gates;      // (T*B, 4H)
  Tensor grad_h, hidden;  // (T*B, P), (T*B, H), empty without a projection
  OptionalTensor h_prev;  // (T*B, P), the h that each step started from, where it is there already
};

// Of the h that one direction of a layer left, and started from.
class RecurrentFactor {
 public:
  RecurrentFactor(const Stack& stack, int64_t layer, int64_t direction, const Tensor& h_0, const Tensor& layer_output,
                  const Options& options)
      : stack_(stack),
        layer_(layer),
        direction_(direction),
        h_0_(h_0),
        layer_output_(layer_output),
        options_(options) {}

  // The gradient of w_hh. Where every row takes all steps, h_prev is the output a step earlier, and is not copied.
  Tensor times(const GateGradients& g) const {
    if (g.h_prev || options_.lengths || options_.reset)
      return product(g.grad_gates, g.h_prev ? *g.h_prev : copied(g.grad_gates));
    const int64_t rows = stack_.num_rows(), batch = stack_.batch, others = rows - batch;
    const bool reverse = direction_ == 1;
    const Tensor h = part(layer_output_, 1, direction_ * stack_.proj_width, stack_.proj_width);
    const Tensor first =
        torch::stable::view(part(h_0_, 0, layer_ * stack_.num_directions + direction_, 1), {batch, stack_.proj_width});
    return add(product(part(g.grad_gates, 0, reverse ? 0 : batch, others), part(h, 0, reverse ? batch : 0, others)),
               product(part(g.grad_gates, 0, reverse ? others : 0, batch), first));
  }

 private:
  Tensor product(const Tensor& grad_gates, const Tensor& h) const {
    const Tensor result = empty({grad_gates.size(1), stack_.proj_width}, grad_gates, stack_.dtype);
    mm_out(result, transposed(grad_gates), h);
    return result;
  }
  Tensor copied(const Tensor& like) const {
    const Tensor h_prev = empty({stack_.num_rows(), stack_.proj_width}, like, stack_.dtype);
    copy_h_prev(stack_, layer_, direction_, h_0_, layer_output_, options_, h_prev);
    return h_prev;
  }
  const Stack& stack_;
  int64_t layer_, direction_;
  Tensor h_0_, layer_output_;
  const Options& options_;
};

// Appends the gradients of w_ih, w_hh, [b_ih, b_hh], [w_hr].
void append_weight_gradients(const Stack& stack, const GateGradients& g, const Tensor& x, const RecurrentFactor& h,
                             std::vector<Tensor>& gradients) {
  const auto product = [&](const Tensor& grad, const Tensor& factor) {
    const Tensor result = empty({grad.size(1), factor.size(1)}, x, stack.dtype);
    mm_out(result, transposed(grad), factor);
    gradients.push_back(result);
  };
  product(g.grad_gates, x);
  gradients.push_back(h.times(g));
  if (stack.has_biases) {
    // Autocast makes float32 of a sum.
    const Tensor bias = dense(torch::stable::sum(g.grad_gates, std::vector<int64_t>{0}), stack.dtype);
    gradients.push_back(bias);
    gradients.push_back(torch::stable::clone(bias));
  }
  if (stack.has_projection) product(g.grad_h, g.hidden);
}

template <class T>
InputGrads backward(const Stack& stack, const Call& call, const OutputGrads& grads, const Tensor& reserve,
                    Needs needs) {
  using Cell = Accumulator<T>;
  const Tensor& input = call.input;
  const OptionalTensor &lengths = call.options.lengths, &dropout_mask = call.options.dropout_mask;
  const DeviceScope scope(input);
  const ScalarType type = stack.dtype;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1, projected_rows = stack.has_projection ? rows : 0;
  const LayerShape shape = stack.layer_shape(call.options);

  const Tensor h_first = dense(call.h_0, type), c_first = dense(call.c_0, type);
  const OptionalTensor grad_h_last = dense(grads.h_n, type), grad_c_last = dense(grads.c_n, type);
  const OptionalTensor grad_all_cells = dense(grads.cells, type);
  const Tensor grad_h_0 = stack.new_h(input, type), grad_c_0 = stack.new_c(input, type);

  const auto mask_of = [&](int64_t layer) {
    return layer > 0 && dropout_mask ? OptionalTensor(stack.mask(dropout_mask, layer, type)) : std::nullopt;
  };
  const auto input_of = [&](int64_t layer, const OptionalTensor& mask) {
    Tensor x = layer > 0 ? stack.layer_output(reserve, layer - 1) : dense(input, type);
    if (layer == 0 && lengths) x = without_padding(x, *lengths);
    x = torch::stable::view(x, {rows, stack.layer_input_size(layer)});
    return mask ? multiply(x, *mask) : x;
  };

  std::vector<std::vector<Tensor>> weight_gradients(stack.num_layers);
  OptionalTensor grad_layer_output = dense(grads.output, type);  // (T, B, D*P)
  OptionalTensor grad_x;
  for (int64_t top = last_layer, layers = 1; top >= 0; top -= layers) {
    LayerKernel::Pass pass =
        layer_kernel(stack, top, /*training=*/true, call.options.allow_tf32, scope.device()).backward;
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
      weights.push_back(stack.weights(call.weights, layer, d));
      const DirectionWeights& w = weights.back();
      gradients.push_back({empty({rows, kNumGates * hidden}, input, type),
                           empty({projected_rows, stack.proj_width}, input, type),
                           empty({projected_rows, hidden}, input, type), std::nullopt});
      GateGradients& g = gradients.back();
      const Tensor gates = stack.keeps_gates ? stack.gates(reserve, layer, d) : g.grad_gates;
      if (!stack.keeps_gates) {
        g.h_prev = empty({rows, stack.proj_width}, input, type);
        regenerate_pre_activations(
            stack, layer, d, w, *inputs.back(), h_first, layer_output, call.options, *g.h_prev, gates,
            [](const Tensor& y, const Tensor& x, const Tensor& w) { mm_out(y, x, transposed(w)); });
        activate_gates(gates, stack.hidden_size);
      }
      const int64_t h_begin = stack.h_begin(layer, d), c_begin = stack.c_begin(layer, d);
      const bool has_grad_output = layer == top && grad_layer_output,
                 has_grad_cells = layer == last_layer && grad_all_cells;
      params[n] = {
          .reverse = d == 1,
          .w_hh = const_data<T>(w.w_hh),
          .w_hr = const_data<T>(w.w_hr),
          .h_0 = const_data<T>(h_first) + h_begin,
          .c_0 = const_data<T>(c_first) + c_begin,
          .gates = const_data<T>(gates),
          .cells = const_data<Cell>(stack.cells(reserve, layer, d)),
          .grad_output = has_grad_output ? const_data<T>(grad_layer_output) + d * stack.proj_width : nullptr,
          .grad_cells = has_grad_cells ? const_data<T>(grad_all_cells) + d * hidden : nullptr,
          .grad_cells_stride = directions * hidden,
          .grad_h_n = grad_h_last ? const_data<T>(grad_h_last) + h_begin : nullptr,
          .grad_c_n = grad_c_last ? const_data<T>(grad_c_last) + c_begin : nullptr,
          .grad_gates = data<T>(g.grad_gates),
          .hidden = stack.has_projection ? data<T>(g.hidden) : nullptr,
          .grad_h = stack.has_projection ? data<T>(g.grad_h) : nullptr,
          .grad_h_0 = data<T>(grad_h_0) + h_begin,
          .grad_c_0 = data<T>(grad_c_0) + c_begin,
          .exchange = memory.exchange(n),
          .onward = memory.onward(n),
          .w_ih = const_data<T>(w.w_ih),
          .input_mask = const_data<T>(masks.back()),
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

    for (int64_t n = 0; needs.weights && n < layers * directions; ++n) {
      OptionalTensor& x = inputs[n / directions];
      const int64_t layer = top - n / directions;
      if (!x) x = input_of(layer, masks[n / directions]);
      const RecurrentFactor h(stack, layer, n % directions, h_first, stack.layer_output(reserve, layer), call.options);
      append_weight_gradients(stack, gradients[n], *x, h, weight_gradients[layer]);
      if (n % directions == directions - 1) x.reset();
    }
    if (top - layers >= 0 || needs.input) grad_layer_output = grad_x = grad_x_of(layers - 1);
  }

  if (!needs.input) return {{}, grad_h_0, grad_c_0, in_order(weight_gradients)};
  return {torch::stable::view(*grad_x, {stack.seq_len, stack.batch, stack.input_size}), grad_h_0, grad_c_0,
          in_order(weight_gradients)};
}

}  // namespace

InputGrads backward_cuda(const Call& call, const OutputGrads& grads, const Tensor& reserve, Needs needs) {
  const Stack stack = Stack::of_backward(Platform::kCuda, call, grads, reserve);
  const auto run = by_type(stack.dtype, backward<float16>, backward<bfloat16>, backward<float>, backward<double>);
  InputGrads found = run(stack, call, grads, reserve, needs);
  if (!needs.states) found.h_0 = found.c_0 = std::nullopt;
  return found;
}

}  // namespace lstm_fused
