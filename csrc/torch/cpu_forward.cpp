#include <algorithm>

#include "torch/cpu.h"
#include "torch/ops.h"

namespace lstm_fused {
namespace {

// Whether the recurrence forms x W_ih^T itself, which saves writing it to memory and reading it back but reads W_ih at
// every step. That takes a few rows for each tile; for weights that do not stay in cache, more rows to hide the
// reading; and a panel of W_ih that nearly stays in the first-level cache from one tile to the next. Time of inference
// with torch's product over that with our own, one AVX-512 core, (T, B, I, H): 1.16 at (32, 8, 64, 64), 1.11 at (32,
// 64, 64, 64), 1.08 at (32, 64, 256, 256); 0.90 at (256, 1, 64, 64), 0.89 at (32, 16, 256, 256), 0.97 at (16, 64, 512,
// 512), 0.92 at (32, 64, 1024, 64). Without fused multiply-add the sums of a product of its own are closer. Nothing
// else decides: the order of the sums must not depend on the number of threads.
bool projects_input(const Stack& stack, int64_t input_size, int64_t element_bytes) {
  constexpr int64_t kLeastRows = 4, kMostInputs = 512;
  constexpr int64_t kBytesPerRow = 64 * 1024, kMostRows = 64;  // that share one reading of the weights
  const int64_t weight_bytes = kNumGates * stack.hidden_size * (input_size + stack.proj_width) * element_bytes;
  return instruction_set().multiplies_and_adds && stack.batch >= kLeastRows && input_size <= kMostInputs &&
         weight_bytes <= kBytesPerRow * std::min(stack.batch, kMostRows);
}

// Otherwise, how many steps to project and then run at a time: x W_ih^T should still be in the second-level cache when
// the recurrence reads it, and the product should have a few hundred rows to be worth its own packing.
int64_t steps_per_range(const Stack& stack, int64_t element_bytes) {
  constexpr int64_t kCacheBytes = 512 * 1024, kRows = 512;
  const int64_t cached_rows = kCacheBytes / (kNumGates * stack.hidden_size * element_bytes);
  const int64_t rows = cached_rows > kRows ? cached_rows : kRows;
  return stack.batch < rows ? rows / (stack.batch > 0 ? stack.batch : 1) : 1;
}

// As ForwardResult, without cells and reserve where they are not asked for: a tensor takes time, empty ones too.
using Computed = std::tuple<Tensor, Tensor, Tensor, OptionalTensor, OptionalTensor>;

// Half types are computed in float and rounded at the end: kernels widen weights as they read them, all else is widened
// here, and W_ih where torch multiplies by it.
template <class T>
Computed forward(const Stack& stack, const Tensor& input, const Tensor& h_0, const Tensor& c_0,
                 const std::vector<Tensor>& all_weights, const OptionalTensor& lengths, const OptionalTensor& reset,
                 const OptionalTensor& dropout_mask, bool training, bool return_cells) {
  const ScalarType type = kScalarType<T>;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1, gates_width = kNumGates * hidden;
  const CpuSchedule schedule(stack);
  const CpuKernels<T>& kernels = cpu_kernels<T>();
  const CpuForward<T>& recurrence = schedule.one_step      ? kernels.one_step
                                    : schedule.direct_w_hh ? kernels.direct
                                                           : kernels.packed;
  // Packed, weights are read once in all. Read at every step they are still faster as halves, where to widen them is
  // an instruction or two: fewer bytes (T = 128, B = 1, bfloat16, one AVX-512 core: 1.2 times at H = 256, 1.9 at 1024).
  const bool widens_in_kernel = !schedule.direct_w_hh || rows == 1 || instruction_set().widens_halves;
  LayerShape shape = stack.layer_shape(lengths, reset);

  const Tensor h_first = dense(h_0, type), c_first = dense(c_0, type);
  const Tensor h_n = empty({stack.num_layers * directions, stack.batch, stack.proj_width}, input, type);
  const Tensor c_n = empty({stack.num_layers * directions, stack.batch, hidden}, input, type);
  const Tensor output = empty(stack.by_step(stack.output_width()), input, type);
  OptionalTensor cells, reserve;
  if (return_cells) cells = empty(stack.by_step(directions * hidden), input, type);
  if (training) reserve = empty({stack.reserve_size()}, input, type);

  Tensor x = dense(input, type);
  for (int64_t layer = 0; layer <= last_layer; ++layer) {
    const int64_t input_size = stack.layer_input_size(layer);
    if (layer > 0 && dropout_mask) x = multiply(x, stack.mask(dropout_mask, layer, type));
    Tensor layer_output = output;
    if (layer < last_layer)
      layer_output = training ? stack.layer_output(*reserve, layer) : empty({rows, stack.output_width()}, input, type);
    // Without a reserve only the current cells are kept, in c_n, unless all of the last layer's are asked for.
    const bool all_cells = !training && return_cells && layer == last_layer;
    if (!training) {
      shape.cells_stride = all_cells ? directions * hidden : hidden;
      shape.cells_time = all_cells ? stack.batch * directions * hidden : 0;
    }

    const bool fuses_input = schedule.one_step      ? instruction_set().multiplies_and_adds
                             : schedule.direct_w_hh ? schedule.direct_w_ih && stack.seq_len == 1
                                                    : projects_input(stack, input_size, sizeof(T));
    const int64_t fused_size = fuses_input ? input_size : 0;
    const int64_t range = fuses_input ? stack.seq_len : std::min(steps_per_range(stack, sizeof(T)), stack.seq_len);
    const int64_t gates_rows = std::min(range * stack.batch, rows);
    OptionalTensor workspace, some_gates;
    if (const int64_t size = directions * recurrence.workspace(shape, fused_size))
      workspace = empty({size}, input, type);
    if (!stack.keeps_gates && !fuses_input) some_gates = empty({directions * gates_rows * gates_width}, input, type);
    const OptionalTensor& gates = stack.keeps_gates ? reserve : some_gates;

    CpuForwardParams<T> params[2];
    std::vector<DirectionWeights> weights;
    weights.reserve(directions);
    for (int64_t d = 0; d < directions; ++d) {
      DirectionWeights& w = weights.emplace_back(stack.weights(all_weights, layer, d));
      if (!widens_in_kernel) w.convert_matrices(type);
      const int64_t state = (layer * directions + d) * stack.batch;
      const int64_t gates_begin = stack.keeps_gates ? stack.gates_begin(layer, d)
                                  : fuses_input     ? 0
                                                    : d * gates_rows * gates_width;
      T* const kept_cells = training    ? data<T>(reserve) + stack.cells_begin(layer, d)
                            : all_cells ? data<T>(cells) + d * hidden
                                        : data<T>(c_n) + state * hidden;
      params[d] = {
          /*reverse=*/d == 1,
          const_data<void>(w.w_hh),
          const_data<void>(w.w_hr),
          const_data<T>(w.b_ih),
          const_data<T>(w.b_hh),
          const_data<T>(h_first) + state * stack.proj_width,
          const_data<T>(c_first) + state * hidden,
          data<T>(gates) + gates_begin,
          /*gates_time=*/0,
          /*keep_gates=*/stack.keeps_gates,
          kept_cells,
          data<T>(layer_output) + d * stack.proj_width,
          data<T>(h_n) + state * stack.proj_width,
          data<T>(c_n) + state * hidden,
          /*hidden=*/nullptr,
          fuses_input ? const_data<T>(x) : nullptr,
          const_data<void>(w.w_ih),
          fused_size,
      };
      params[d].weight_type = kernel_type(widens_in_kernel ? stack.dtype : type);
    }
    const auto project = [&](int64_t d, int64_t time, int64_t steps) {
      const int64_t first = stack.first_row(time), count = stack.first_row(time + steps) - first;
      const CpuForwardParams<T>& p = params[d];
      const T* const first_x = const_data<T>(x) + first * input_size;
      T* const first_gates = p.gates + (first - stack.first_row(p.gates_time)) * gates_width;
      multiply_matrices<T>({count, gates_width, input_size, first_x, /*a_transposed=*/false, p.w_ih,
                            /*b_transposed=*/true, p.weight_type, first_gates},
                           x);
    };
    for (int64_t begin = 0; begin < stack.seq_len; begin += range) {
      const int64_t end = begin + range < stack.seq_len ? begin + range : stack.seq_len;
      for (int64_t d = 0; d < directions && !fuses_input; ++d) {
        const int64_t time = d == 0 ? begin : stack.seq_len - end;
        params[d].gates_time = stack.keeps_gates ? 0 : time;
        project(d, time, end - begin);
      }
      recurrence.run(shape, params, static_cast<int>(directions), workspace ? data<T>(*workspace) : nullptr,
                     {begin, end}, schedule.split, schedule.parallel);
    }
    x = layer_output;
  }

  if (training && return_cells)
    for (int64_t d = 0; d < directions; ++d) {
      Tensor part = *cells;
      part = torch::stable::narrow(part, static_cast<int64_t>(part.dim()) - 1, d * hidden, hidden);
      torch::stable::copy_(part, torch::stable::view(stack.cells(*reserve, last_layer, d), stack.by_step(hidden)));
    }
  return {dense(output, stack.dtype), dense(h_n, stack.dtype), dense(c_n, stack.dtype), dense(cells, stack.dtype),
          dense(reserve, stack.dtype)};
}

auto by_type(const Stack& stack) { return stack.dtype == ScalarType::Double ? forward<double> : forward<float>; }

}  // namespace

ForwardResult forward_cpu(Tensor input, Tensor h_0, Tensor c_0, std::vector<Tensor> weights, bool bidirectional,
                          OptionalTensor lengths, OptionalTensor reset, OptionalTensor dropout_mask, bool training,
                          bool return_cells, bool /*allow_tf32*/, bool recompute_gates) {
  Stack stack(Platform::kCpu, input, h_0, c_0, weights, bidirectional, lengths);
  stack.keeps_gates = training && !recompute_gates;
  stack.check_masks(lengths, reset, dropout_mask);
  const auto [output, h_n, c_n, cells, reserve] =
      by_type(stack)(stack, input, h_0, c_0, weights, lengths, reset, dropout_mask, training, return_cells);
  return {output, h_n, c_n, cells ? *cells : empty({0}, input, stack.dtype),
          reserve ? *reserve : empty({0}, input, stack.dtype)};
}

InferResult infer_cpu(Tensor input, OptionalTensor h_0, OptionalTensor c_0, std::vector<Tensor> weights,
                      int64_t num_layers, bool bidirectional, bool /*allow_tf32*/) {
  fill_in_states(h_0, c_0, input, weights, num_layers * (bidirectional ? 2 : 1));
  Stack stack(Platform::kCpu, input, *h_0, *c_0, weights, bidirectional);
  stack.keeps_gates = false;
  const auto [output, h_n, c_n, cells, reserve] =
      by_type(stack)(stack, input, *h_0, *c_0, weights, {}, {}, {}, /*training=*/false, /*return_cells=*/false);
  return {output, h_n, c_n};
}

}  // namespace lstm_fused
