#include "torch/cuda.h"
#include "torch/ops.h"
#include "torch/stream.h"

namespace lstm_fused {
namespace {

// Everything is queued on torch's current stream, and nothing is read back: a call can be captured in a CUDA graph.
template <class T>
ForwardResult forward(const Stack& stack, const Tensor& input, const Tensor& h_0, const Tensor& c_0,
                      const std::vector<Tensor>& all_weights, const OptionalTensor& lengths,
                      const OptionalTensor& reset, const OptionalTensor& dropout_mask, bool training, bool return_cells,
                      bool allow_tf32) {
  using Cell = Accumulator<T>;
  const DeviceScope scope(input);
  const ScalarType type = stack.dtype, cell_type = stack.cell_dtype;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1;
  LayerShape shape = stack.layer_shape(lengths, reset);

  const Tensor h_first = dense(h_0, type), c_first = dense(c_0, type);
  const Tensor h_n = empty({stack.num_layers * directions, stack.batch, stack.proj_width}, input, type);
  const Tensor c_n = empty({stack.num_layers * directions, stack.batch, hidden}, input, type);
  const Tensor output = empty({stack.seq_len, stack.batch, stack.output_width()}, input, type);
  const Tensor cells = empty(return_cells ? Sizes{stack.seq_len, stack.batch, directions * hidden} : Sizes{0}, input,
                             training ? type : cell_type);
  const Tensor reserve = empty({training ? stack.reserve_size() : 0}, input, type);
  const Tensor one_step = empty({training ? 0 : directions, stack.batch, hidden}, input, cell_type);
  const Tensor unprojected = empty({stack.has_projection ? directions : 0, stack.batch, hidden}, input, type);

  Tensor x = torch::stable::view(dense(input, type), {rows, stack.input_size});
  for (int64_t layer = 0; layer <= last_layer; ++layer) {
    const LayerKernel kernel = layer_kernel(stack, layer, stack.keeps_gates, allow_tf32, scope.device());
    const bool fuses_input = kernel.launch.fuses_input;
    if (layer > 0 && dropout_mask) x = multiply(x, stack.mask(dropout_mask, layer, type));
    Tensor layer_output = output;
    if (layer < last_layer)
      layer_output = training ? stack.layer_output(reserve, layer) : empty({rows, stack.output_width()}, input, type);
    // Without a reserve only the current cells are kept, unless all of the last layer's are asked for.
    const bool all_cells = !training && return_cells && layer == last_layer;
    if (!training) {
      shape.cells_stride = all_cells ? directions * hidden : hidden;
      shape.cells_time = all_cells ? stack.batch * directions * hidden : 0;
    }

    const GroupMemory memory(kernel.launch, shape, /*backward=*/false, input);
    ForwardParams<T, Cell> params[2];
    std::vector<DirectionWeights> weights;
    std::vector<Tensor> gates;
    for (int64_t d = 0; d < directions; ++d) {
      weights.push_back(stack.weights(all_weights, layer, d));
      const DirectionWeights& w = weights.back();
      const int64_t gates_rows = fuses_input ? 0 : rows, state = (layer * directions + d) * stack.batch;
      gates.push_back(stack.keeps_gates ? stack.gates(reserve, layer, d)
                                        : empty({gates_rows, kNumGates * hidden}, input, type));
      if (!fuses_input) mm_out(gates.back(), x, transposed(w.w_ih));
      Cell* const kept_cells = training    ? data<Cell>(stack.cells(reserve, layer, d))
                               : all_cells ? data<Cell>(cells) + d * hidden
                                           : data<Cell>(one_step) + d * stack.batch * hidden;
      params[d] = {
          /*reverse=*/d == 1,
          const_data<T>(w.w_hh),
          const_data<T>(w.w_hr),
          const_data<T>(w.b_ih),
          const_data<T>(w.b_hh),
          const_data<T>(h_first) + state * stack.proj_width,
          const_data<T>(c_first) + state * hidden,
          data<T>(gates.back()),
          /*gates_time=*/0,
          /*keep_gates=*/stack.keeps_gates,
          kept_cells,
          data<T>(layer_output) + d * stack.proj_width,
          data<T>(h_n) + state * stack.proj_width,
          data<T>(c_n) + state * hidden,
          stack.has_projection ? data<T>(unprojected) + d * stack.batch * hidden : nullptr,
          fuses_input ? const_data<T>(x) : nullptr,
          fuses_input ? const_data<T>(w.w_ih) : nullptr,
          fuses_input ? stack.layer_input_size(layer) : 0,
          memory.exchange(d),
          memory.arrivals(d),
      };
    }
    run(kernel.forward, kernel.launch, shape, params, sizeof(params[0]), scope.stream(), [](int64_t) {});
    x = torch::stable::view(layer_output, {rows, stack.output_width()});
  }

  if (training && return_cells)
    for (int64_t d = 0; d < directions; ++d) {
      Tensor part = cells;
      part = torch::stable::narrow(part, 2, d * hidden, hidden);
      torch::stable::copy_(
          part, torch::stable::view(stack.cells(reserve, last_layer, d), {stack.seq_len, stack.batch, hidden}));
    }
  return {output, h_n, c_n, dense(cells, type), reserve};
}

}  // namespace

ForwardResult forward_cuda(Tensor input, Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool bidirectional,
                           OptionalTensor lengths, OptionalTensor reset, OptionalTensor dropout_mask, bool training,
                           bool return_cells, bool allow_tf32, bool recompute_gates) {
  Stack stack(Platform::kCuda, input, h_0, c_0, weights, bidirectional);
  stack.keeps_gates = training && !recompute_gates;
  stack.check_masks(lengths, reset, dropout_mask);
  const auto run = by_type(stack.dtype, forward<float16>, forward<bfloat16>, forward<float>, forward<double>);
  return run(stack, input, h_0, c_0, weights, lengths, reset, dropout_mask, training, return_cells, allow_tf32);
}

InferResult infer_cuda(Tensor input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights,
                       int64_t num_layers, bool bidirectional, bool allow_tf32) {
  fill_in_states(h_0, c_0, input, weights, num_layers * (bidirectional ? 2 : 1));
  const auto [output, h_n, c_n, cells, reserve] = forward_cuda(input, *h_0, *c_0, weights, bidirectional, {}, {}, {},
                                                               /*training=*/false, /*return_cells=*/false, allow_tf32,
                                                               /*recompute_gates=*/false);
  return {output, h_n, c_n};
}

}  // namespace lstm_fused
