#include <algorithm>
#include <utility>

#include "torch/call.h"
#include "torch/cpu/input_projection.h"

namespace lstm_fused {
namespace {

// Half types are computed in float. Weights are widened by the kernels as they read them, or W_ih here where torch
// multiplies by it; x a range of steps at a time; and what comes out is rounded step by step.
template <class T>
Outputs forward(const Stack& stack, const Call& call, bool training) {
  const Tensor& input = call.input;
  const OptionalTensor& dropout_mask = call.options.dropout_mask;
  const bool return_cells = call.options.return_cells;
  const ScalarType type = kScalarType<T>;
  const bool rounds = stack.dtype != type;
  const int64_t element_bytes = rounds ? sizeof(uint16_t) : sizeof(T);
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, directions = stack.num_directions;
  const int64_t last_layer = stack.num_layers - 1, gates_width = kNumGates * hidden;
  const CpuSchedule schedule(stack);
  const CpuKernels<T>& kernels = cpu_kernels<T>(stack);
  const bool is_one_step = schedule.plan.kernel == CpuPlan::kOneStep;
  const bool is_direct = schedule.plan.kernel == CpuPlan::kDirect;
  const CpuForward<T>& recurrence = is_one_step ? kernels.one_step : is_direct ? kernels.direct : kernels.packed;
  // Packed, weights are read once in all. Read at every step they are still faster as halves, where to widen them is
  // an instruction or two: fewer bytes (T = 128, B = 1, bfloat16, one AVX-512 core: 1.2 times at H = 256, 1.9 at 1024).
  const bool widens_in_kernel = !is_direct || rows == 1 || instruction_set().widens_halves;
  const bool pairs = multiplies_pairs(stack) && !is_direct;
  LayerShape shape = stack.layer_shape(call.options);

  const Tensor h_first = dense(call.h_0, type), c_first = dense(call.c_0, type);
  const Tensor h_rounded = pairs ? dense(call.h_0, stack.dtype) : h_first;
  const Tensor h_n = stack.new_h(input, type), c_n = stack.new_c(input, type);
  OptionalTensor cells, reserve;
  if (return_cells) cells = empty(stack.by_step(directions * hidden), input, stack.dtype);
  if (training) reserve = empty({stack.reserve_size()}, input, stack.dtype);
  const auto part_of = [element_bytes](const OptionalTensor& tensor, int64_t begin) -> void* {
    return tensor ? data<char>(*tensor) + begin * element_bytes : nullptr;
  };

  Tensor x = dense(input, stack.dtype), layer_output = x;
  // What several layers use, one after the other: for tensors of their own, the allocator may find other places.
  OptionalTensor scratch, outputs[2];
  const auto between = [&](int64_t layer) {
    OptionalTensor& own = outputs[layer % 2];
    if (!own) own = empty({rows, stack.output_width()}, input, stack.dtype);
    return *own;
  };
  for (int64_t layer = 0; layer <= last_layer; ++layer) {
    const int64_t input_size = stack.layer_input_size(layer);
    OptionalTensor mask;
    if (layer > 0 && dropout_mask) mask = stack.mask(dropout_mask, layer, stack.dtype);
    if (mask && (!rounds || pairs)) x = multiply(x, *std::exchange(mask, std::nullopt));
    const bool stays = training && stack.keeps_outputs();
    layer_output = layer == last_layer ? empty(stack.by_step(stack.output_width()), input, stack.dtype)
                   : stays             ? stack.layer_output(*reserve, layer)
                                       : between(layer);
    // Without a reserve only the current cells are kept, in c_n, unless all of the last layer's are asked for.
    const bool all_cells = !training && return_cells && layer == last_layer;
    const int64_t cells_stride = all_cells ? directions * hidden : hidden;
    const bool current_cells = rounds || (!training && !all_cells);
    shape.cells_stride = rounds ? hidden : cells_stride;
    shape.cells_time = current_cells ? 0 : stack.batch * cells_stride;

    const InputProjection projection = {stack.batch, input_size, hidden, sizeof(T), pairs};
    const bool fuses_input = is_one_step ? instruction_set().multiplies_and_adds
                             : is_direct ? schedule.plan.direct_w_ih && stack.seq_len == 1
                                         : projection.in_recurrence();
    const int64_t fused_size = fuses_input ? input_size : 0;
    const bool widens_x = rounds && !(fuses_input && pairs);
    const bool whole = fuses_input && !widens_x;
    const int64_t range = whole ? stack.seq_len : std::min(projection.steps_per_range(fuses_input), stack.seq_len);
    const int64_t range_rows = std::min(range * stack.batch, rows);
    // Scratch, one behind the other: the recurrence's, then of each direction gates, x and the last two steps' h.
    const bool keeps_in_place = stack.keeps_gates && !rounds;
    const int64_t recurrence_size = recurrence.workspace(shape, fused_size);
    const int64_t gates_size =
        keeps_in_place || (fuses_input && (pairs || !stack.keeps_gates)) ? 0 : whole_lines<T>(range_rows * gates_width);
    const int64_t x_size = widens_x ? whole_lines<T>(range_rows * input_size) : 0;
    const int64_t h_size = rounds && !pairs ? 2 * stack.batch * stack.proj_width : 0;
    const int64_t scratch_size = directions * (whole_lines<T>(recurrence_size) + gates_size + x_size + h_size);
    if (scratch_size > (scratch ? scratch->numel() : 0)) scratch = empty({scratch_size}, input, type);
    T* const workspace = data<T>(scratch);
    T* free = workspace + whole_lines<T>(directions * recurrence_size);
    const auto take = [&free](int64_t size) { return std::exchange(free, free + size); };

    CpuForwardParams<T> params[2];
    T* widened_x[2];
    std::vector<DirectionWeights> weights;
    weights.reserve(directions);
    for (int64_t d = 0; d < directions; ++d) {
      DirectionWeights& w = weights.emplace_back(stack.weights(call.weights, layer, d));
      if (!widens_in_kernel) w.convert_matrices(type);
      const int64_t h_begin = stack.h_begin(layer, d), c_begin = stack.c_begin(layer, d);
      void* const kept_gates = stack.keeps_gates ? part_of(reserve, stack.gates_begin(layer, d)) : nullptr;
      void* const kept_cells = training    ? part_of(reserve, stack.cells_begin(layer, d))
                               : all_cells ? part_of(cells, d * hidden)
                                           : nullptr;
      void* const kept_output = part_of(layer_output, d * stack.proj_width);
      widened_x[d] = take(x_size);
      CpuForwardParams<T>& p = params[d];
      p.reverse = d == 1;
      p.w_hh = const_data<void>(w.w_hh);
      p.w_hr = const_data<void>(w.w_hr);
      p.b_ih = const_data<T>(w.b_ih);
      p.b_hh = const_data<T>(w.b_hh);
      p.h_0 = const_data<T>(h_first) + h_begin;
      p.c_0 = const_data<T>(c_first) + c_begin;
      p.h_n = data<T>(h_n) + h_begin;
      p.c_n = data<T>(c_n) + c_begin;
      p.gates = keeps_in_place ? static_cast<T*>(kept_gates) : take(gates_size);
      p.gates_time = 0;
      p.keep_gates = stack.keeps_gates;
      p.cells = current_cells ? p.c_n : static_cast<T*>(kept_cells);
      p.output = rounds ? take(h_size) : static_cast<T*>(kept_output);
      p.x = !fuses_input || pairs ? nullptr : rounds ? widened_x[d] : const_data<T>(x);
      p.w_ih = const_data<void>(w.w_ih);
      p.input_size = fused_size;
      p.weight_type = kernel_type(widens_in_kernel ? stack.dtype : type);
      p.kept_type = kernel_type(stack.dtype);
      if (rounds) p.rounded = {kept_output, kept_gates, kept_cells, training ? hidden : cells_stride, {}, {}};
      if (pairs) p.rounded.h_0 = part_of(h_rounded, h_begin);
      if (pairs && fuses_input) p.rounded.x = const_data<void>(x);
    }
    const auto project = [&](int64_t d, int64_t time, int64_t steps) {
      const int64_t first = stack.first_row(time), count = stack.first_row(time + steps) - first;
      const CpuForwardParams<T>& p = params[d];
      if (widens_x)
        kernels.widen({count * input_size, part_of(x, first * input_size), part_of(mask, first * input_size),
                       p.kept_type, widened_x[d]},
                      schedule.parallel);
      if (fuses_input) return;
      const T* const first_x = rounds ? widened_x[d] : const_data<T>(x) + first * input_size;
      T* const first_gates = p.gates + (first - stack.first_row(p.gates_time)) * gates_width;
      multiply_matrices<T>(kernels,
                           {.rows = count,
                            .terms = input_size,
                            .a = first_x,
                            .factors = {{gates_width, p.w_ih, p.weight_type, first_gates, kernel_type(type)}},
                            .b_transposed = true},
                           x);
    };
    for (int64_t begin = 0; begin < stack.seq_len; begin += range) {
      const int64_t end = begin + range < stack.seq_len ? begin + range : stack.seq_len;
      for (int64_t d = 0; d < directions && !whole; ++d) {
        const int64_t time = d == 0 ? begin : stack.seq_len - end;
        params[d].gates_time = keeps_in_place ? 0 : time;
        project(d, time, end - begin);
      }
      recurrence.run({.shape = shape,
                      .directions = params,
                      .num_directions = static_cast<int>(directions),
                      .workspace = workspace,
                      .steps = {begin, end},
                      .split = schedule.split,
                      .parallel = schedule.parallel});
    }
    if (stays && layer == last_layer) {  // the caller has the other one
      Tensor kept = stack.layer_output(*reserve, layer);
      torch::stable::copy_(kept, torch::stable::view(layer_output, {rows, stack.output_width()}));
    }
    x = layer_output;
  }

  if (training && return_cells)
    for (int64_t d = 0; d < directions; ++d) {
      Tensor part = *cells;
      part = torch::stable::narrow(part, static_cast<int64_t>(part.dim()) - 1, d * hidden, hidden);
      torch::stable::copy_(part, torch::stable::view(stack.cells(*reserve, last_layer, d), stack.by_step(hidden)));
    }
  return {layer_output, dense(h_n, stack.dtype), dense(c_n, stack.dtype), cells, reserve};
}

}  // namespace

Outputs forward_cpu(const Call& call, bool training) {
  const Stack stack = Stack::of_forward(Platform::kCpu, call, training);
  return stack.dtype == ScalarType::Double ? forward<double>(stack, call, training)
                                           : forward<float>(stack, call, training);
}

}  // namespace lstm_fused
