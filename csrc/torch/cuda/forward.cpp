#include <algorithm>

#include "torch/call.h"
#include "torch/cuda/layer_kernel.h"
#include "torch/cuda/stream.h"

namespace lstm_fused {
namespace {

// Everything is queued on torch's current stream, and nothing is read back: a call can be captured in a CUDA graph.
template <class T>
Outputs forward(const Stack& stack, const Call& call, bool training) {
  using Cell = Accumulator<T>;
  const Tensor& input = call.input;
  const OptionalTensor& dropout_mask = call.options.dropout_mask;
  const bool return_cells = call.options.return_cells;
  const DeviceScope scope(input);
  const ScalarType type = stack.dtype, cell_type = stack.cell_dtype;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1;
  LayerShape shape = stack.layer_shape(call.options);

  const Tensor h_first = dense(call.h_0, type), c_first = dense(call.c_0, type);
  const Tensor h_n = stack.new_h(input, type), c_n = stack.new_c(input, type);
  const Tensor output = empty({stack.seq_len, stack.batch, stack.output_width()}, input, type);
  OptionalTensor cells, reserve;
  if (return_cells)
    cells = empty({stack.seq_len, stack.batch, directions * hidden}, input, training ? type : cell_type);
  if (training) reserve = empty({stack.reserve_size()}, input, type);
  const Tensor unprojected = empty({stack.has_projection ? directions : 0, stack.batch, hidden}, input, type);

  Tensor x = torch::stable::view(dense(input, type), {rows, stack.input_size});
  for (int64_t first = 0, layers = 1; first <= last_layer; first += layers) {
    LayerKernel::Pass pass =
        layer_kernel(stack, first, stack.keeps_gates, call.options.allow_tf32, scope.device()).forward;
    layers = pass.launch.num_layers = std::min(pass.launch.num_layers, stack.num_layers - first);
    const bool fuses_input = pass.launch.fuses_input;
    if (first > 0 && dropout_mask) x = multiply(x, stack.mask(dropout_mask, first, type));
    // Without a reserve only the current cells are kept, unless all of the last layer's are asked for.
    const bool all_cells = !training && return_cells && first + layers > last_layer;
    if (!training) {
      shape.cells_stride = all_cells ? directions * hidden : hidden;
      shape.cells_time = all_cells ? stack.batch * directions * hidden : 0;
    }
    const int64_t scratch_rows = all_cells && layers > 1 ? rows : stack.batch;
    const Tensor scratch = empty({training ? 0 : layers * directions, scratch_rows, hidden}, input, cell_type);

    const GroupMemory memory(pass.launch, shape, /*backward=*/false, input);
    std::vector<ForwardParams<T, Cell>> params(layers * directions);
    std::vector<DirectionWeights> weights;
    std::vector<Tensor> gates, outputs;
    std::vector<OptionalTensor> masks;  // on what goes above
    for (int64_t n = 0; n < layers * directions; ++n) {
      const int64_t layer = first + n / directions, d = n % directions;
      const bool beside_below = layer > first;  // which multiplies its input by W_ih then
      const bool is_last = layer == last_layer;
      if (d == 0)
        outputs.push_back(training  ? stack.layer_output(*reserve, layer)
                          : is_last ? output
                                    : empty({rows, stack.output_width()}, input, type));
      masks.emplace_back();
      if (memory.onward(n) != nullptr && dropout_mask) masks.back() = stack.mask(dropout_mask, layer + 1, type);
      weights.push_back(stack.weights(call.weights, layer, d));
      const DirectionWeights& w = weights.back();
      const int64_t gates_rows = fuses_input || beside_below ? 0 : rows;
      const int64_t h_begin = stack.h_begin(layer, d), c_begin = stack.c_begin(layer, d);
      gates.push_back(stack.keeps_gates ? stack.gates(*reserve, layer, d)
                                        : empty({gates_rows, kNumGates * hidden}, input, type));
      if (gates_rows > 0) mm_out(gates.back(), x, transposed(w.w_ih));
      Cell* const kept_cells = training               ? data<Cell>(stack.cells(*reserve, layer, d))
                               : all_cells && is_last ? data<Cell>(cells) + d * hidden
                                                      : data<Cell>(scratch) + n * scratch_rows * hidden;
      params[n] = {
          .reverse = d == 1,
          .w_hh = const_data<T>(w.w_hh),
          .w_hr = const_data<T>(w.w_hr),
          .b_ih = const_data<T>(w.b_ih),
          .b_hh = const_data<T>(w.b_hh),
          .h_0 = const_data<T>(h_first) + h_begin,
          .c_0 = const_data<T>(c_first) + c_begin,
          // Kernels form addresses from it, even where there are none to read or keep.
          .gates = data<T>(gates.back().numel() > 0 ? gates.back() : outputs.back()),
          .gates_time = 0,
          .keep_gates = stack.keeps_gates,
          .cells = kept_cells,
          .output = data<T>(outputs.back()) + d * stack.proj_width,
          .h_n = data<T>(h_n) + h_begin,
          .c_n = data<T>(c_n) + c_begin,
          .hidden = stack.has_projection ? data<T>(unprojected) + d * stack.batch * hidden : nullptr,
          .x = fuses_input ? const_data<T>(x) : nullptr,
          .w_ih = fuses_input || beside_below ? const_data<T>(w.w_ih) : nullptr,
          .input_size = fuses_input ? stack.layer_input_size(layer) : 0,
          .exchange = memory.exchange(n),
          .onward = memory.onward(n),
          .onward_mask = const_data<T>(masks.back()),
      };
    }
    const auto output_of = [&](int64_t n) { return torch::stable::view(outputs[n], {rows, stack.output_width()}); };
    const auto for_step = [&](int64_t n) {
      if (n < directions) return;
      const Tensor below = masks[n - 1] ? multiply(output_of(n - 1), *masks[n - 1]) : output_of(n - 1);
      if (!stack.keeps_gates) gates[n] = empty({rows, kNumGates * hidden}, input, type);
      mm_out(gates[n], below, transposed(weights[n].w_ih));
      params[n].gates = data<T>(gates[n]);
    };
    run(pass, shape, params.data(), sizeof(params[0]), scope.stream(), for_step);
    x = output_of(layers - 1);
  }

  if (training) {  // the caller's own copy
    Tensor to = output;
    torch::stable::copy_(to, torch::stable::view(x, {stack.seq_len, stack.batch, stack.output_width()}));
  }
  if (training && return_cells)
    for (int64_t d = 0; d < directions; ++d) {
      Tensor part = *cells;
      part = torch::stable::narrow(part, 2, d * hidden, hidden);
      torch::stable::copy_(
          part, torch::stable::view(stack.cells(*reserve, last_layer, d), {stack.seq_len, stack.batch, hidden}));
    }
  return {output, h_n, c_n, dense(cells, type), reserve};
}

}  // namespace

Outputs forward_cuda(const Call& call, bool training) {
  const Stack stack = Stack::of_forward(Platform::kCuda, call, training);
  const auto run = by_type(stack.dtype, forward<float16>, forward<bfloat16>, forward<float>, forward<double>);
  return run(stack, call, training);
}

}  // namespace lstm_fused
