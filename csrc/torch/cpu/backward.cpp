#include <algorithm>
#include <cstring>
#include <utility>

#include "torch/call.h"
#include "torch/cpu/weight_gradients.h"
#include "torch/regenerate.h"

namespace lstm_fused {
namespace {

// Of regenerate_pre_activations.
template <class T>
void multiply_by_transposed(const CpuKernels<T>& kernels, const Tensor& y, const Tensor& x, const Tensor& w) {
  const DType type = kernel_type(kScalarType<T>);
  multiply_matrices<T>(kernels,
                       {.rows = x.size(0),
                        .terms = x.size(1),
                        .a = const_data<T>(x),
                        .factors = {{w.size(0), const_data<void>(w), type, data<void>(y), type}},
                        .b_transposed = true},
                       x);
}

// How many steps to run back through before their part of the large products: grad_gates in float take more memory than
// what forward kept of a half type, so that not all of them should exist at a time. Fewer rows would make the products
// slower.
int64_t steps_per_range(const Stack& stack) {
  constexpr int64_t kLeastRows = 512, kMostRanges = 8;
  const int64_t rows = std::max(kLeastRows, stack.num_rows() / kMostRanges);
  return stack.batch < rows ? rows / std::max<int64_t>(stack.batch, 1) : 1;
}

// The input (N, I or D*P) of a layer as forward saw it, a range of rows at a time.
template <class T>
class LayerInput {
 public:
  LayerInput(const Stack& stack, int64_t layer, const Call& call, const Tensor& reserve, const Parallel& parallel)
      : stack_(stack), layer_(layer), width_(stack.layer_input_size(layer)), parallel_(parallel) {
    if (layer == 0)
      from_ = dense(call.input, stack.dtype);
    else if (stack.keeps_outputs())
      from_ = stack.layer_output(reserve, layer - 1);
    else
      reserve_ = reserve;
    const Options& options = call.options;
    if (layer > 0 && options.dropout_mask) mask_ = stack.mask(options.dropout_mask, layer, stack.dtype);
    if ((layer == 0 || reserve_) && !stack.is_packed()) lengths_ = options.lengths;
  }

  const OptionalTensor& mask() const { return mask_; }

  // Whether rows() forms them; `scratch` is not used else.
  bool needs_scratch() const { return !from_ || mask_ || lengths_ || stack_.dtype != kScalarType<T>; }

  const T* rows(int64_t begin, int64_t end, T* scratch) const {
    const int64_t count = (end - begin) * width_;
    if (!needs_scratch()) return const_data<T>(*from_) + begin * width_;
    const int64_t bytes = stack_.dtype == kScalarType<T> ? sizeof(T) : sizeof(uint16_t);
    const DType type = kernel_type(stack_.dtype);
    const auto at = [&](const OptionalTensor& tensor, int64_t n) {
      return tensor ? const_data<char>(*tensor) + n * bytes : nullptr;
    };
    const CpuKernels<T>& kernels = cpu_kernels<T>(stack_);
    if (from_) kernels.widen({count, at(from_, begin * width_), at(mask_, begin * width_), type, scratch}, parallel_);
    for (int64_t d = 0; d < stack_.num_directions && reserve_; ++d) {
      const int64_t column = d * stack_.hidden_size;
      kernels.hidden(
          {begin, end, stack_.hidden_size, width_, at(reserve_, stack_.gates_begin(layer_ - 1, d)),
           at(reserve_, stack_.cells_begin(layer_ - 1, d)), at(mask_, begin * width_ + column), type, scratch + column},
          parallel_);
    }
    if (lengths_) cut(begin, end, scratch);
    return scratch;
  }

 private:
  // Zero past each row's length: what lies there was never read, and zero times NaN would not be zero.
  void cut(int64_t begin, int64_t end, T* scratch) const {
    for (int64_t row = begin; row < end; ++row)
      if (row / stack_.batch >= const_data<int64_t>(*lengths_)[row % stack_.batch])
        std::fill_n(scratch + (row - begin) * width_, width_, T(0));
  }

  const Stack& stack_;
  const int64_t layer_, width_;
  const Parallel& parallel_;
  OptionalTensor from_, reserve_, mask_, lengths_;
};

template <class T>
InputGrads backward(const Stack& stack, const Call& call, const OutputGrads& grads, const Tensor& reserve,
                    Needs needs) {
  const Tensor& input = call.input;
  const ScalarType type = kScalarType<T>;
  const int64_t rows = stack.num_rows(), hidden = stack.hidden_size, width = stack.proj_width;
  const int64_t directions = stack.num_directions, last_layer = stack.num_layers - 1, gates_width = kNumGates * hidden;
  const CpuSchedule schedule(stack);
  const CpuKernels<T>& kernels = cpu_kernels<T>(stack);
  const LayerShape shape = stack.layer_shape(call.options);
  // Then no step waits for a gradient of h, and that of h_0 is one more product behind the recurrence, which packs
  // weights as it goes.
  const bool one_step = stack.seq_len == 1 && !stack.is_packed() && !call.options.lengths && !call.options.reset;
  const DType own_type = kernel_type(stack.dtype), wide_type = kernel_type(type);
  const auto bytes = [wide_type](DType type) -> int64_t { return type == wide_type ? sizeof(T) : sizeof(uint16_t); };
  const auto at = [bytes](const Tensor& tensor, int64_t begin, DType type) {
    return const_data<char>(tensor) + begin * bytes(type);
  };
  // Products that multiply pairs, of two rows and more, would round them.
  const bool rounds = multiplies_pairs(stack) && stack.keeps_gates && rows > 1 && !needs.gates;
  const DType grad_gates_type = rounds ? own_type : wide_type;

  const Tensor h_first = dense(call.h_0, stack.dtype), c_first = dense(call.c_0, stack.dtype);
  const OptionalTensor grad_h_last = dense(grads.h_n, stack.dtype), grad_c_last = dense(grads.c_n, stack.dtype);
  const OptionalTensor grad_all_cells = dense(grads.cells, stack.dtype);
  OptionalTensor grad_h_0;
  if (needs.states) grad_h_0 = stack.new_h(input, type);
  const Tensor grad_c_0 = stack.new_c(input, type);

  OptionalTensor grad_gates_of_step;
  if (needs.gates) {
    STD_TORCH_CHECK(one_step && stack.num_layers == 1 && directions == 1,
                    "lstm_fused: gradients of gates are kept of one step of one layer");
    grad_gates_of_step = empty({rows, gates_width}, input, type);
  }

  std::vector<std::vector<Tensor>> weight_gradients(stack.num_layers);
  OptionalTensor grad_layer_output = dense(grads.output, stack.dtype);  // (T, B, D*P)
  OptionalTensor grad_x;
  for (int64_t layer = last_layer; layer >= 0; --layer) {
    const bool needs_grad_x = layer > 0 || needs.input;
    const int64_t input_size = stack.layer_input_size(layer);
    const LayerInput<T> layer_input(stack, layer, call, reserve, schedule.parallel);
    // Gates that are made anew are so for all steps, and lie where their gradients come.
    const int64_t range = stack.keeps_gates ? std::min(steps_per_range(stack), stack.seq_len) : stack.seq_len;
    const int64_t range_rows = std::min((range + (range < stack.seq_len)) * stack.batch, rows);
    const bool keeps_h_prev = needs.weights || !stack.keeps_gates;

    // Scratch, one behind the other: the kernel's, then of each direction the results, and x of one of them.
    const int64_t kernel_size = whole_lines<T>(directions * kernels.backward_workspace(shape));
    const auto per_row = [&](bool wanted, int64_t size) { return wanted ? whole_lines<T>(range_rows * size) : 0; };
    const int64_t gates_size = per_row(!needs.gates, ceil_div(gates_width * bytes(grad_gates_type), sizeof(T))),
                  h_size = per_row(keeps_h_prev, width), hidden_size = per_row(stack.has_projection, hidden),
                  grad_h_size = per_row(stack.has_projection, width),
                  x_size = per_row(keeps_h_prev && layer_input.needs_scratch(), input_size);
    const Tensor scratch =
        empty({kernel_size + directions * (gates_size + h_size + hidden_size + grad_h_size) + x_size}, input, type);
    T* free = data<T>(scratch) + kernel_size;
    const auto take = [&free](int64_t size) { return size == 0 ? nullptr : std::exchange(free, free + size); };
    T* const x_scratch = take(x_size);

    CpuBackwardParams<T> params[2];
    std::vector<DirectionWeights> weights;
    std::vector<WeightGradients<T>> gradients;
    weights.reserve(directions);
    for (int64_t d = 0; d < directions; ++d) {
      DirectionWeights& w = weights.emplace_back(stack.weights(call.weights, layer, d));
      // Kernels widen weights as they read them; to regenerate gates wants them wide.
      if (!stack.keeps_gates) w.convert_matrices(type);
      if (needs.weights) gradients.emplace_back(stack, input_size, input, range == stack.seq_len, schedule.parallel);
      const int64_t h_begin = stack.h_begin(layer, d), c_begin = stack.c_begin(layer, d);
      const auto part_of = [&](const OptionalTensor& tensor, int64_t begin) {
        return tensor ? at(*tensor, begin, own_type) : nullptr;
      };
      CpuBackwardParams<T>& p = params[d];
      p.reverse = d == 1;
      p.w_hh = const_data<void>(w.w_hh);
      p.w_hr = const_data<void>(w.w_hr);
      p.weight_type = stack.keeps_gates ? own_type : wide_type;
      p.h_0 = at(h_first, h_begin, own_type);
      p.c_0 = at(c_first, c_begin, own_type);
      p.cells = at(reserve, stack.cells_begin(layer, d), own_type);
      p.output = stack.keeps_outputs() ? at(reserve, stack.output_begin(layer) + d * width, own_type) : nullptr;
      p.kept_type = own_type;
      p.grad_output_type = layer == last_layer ? own_type : wide_type;
      p.grad_output = grad_layer_output ? at(*grad_layer_output, d * width, p.grad_output_type) : nullptr;
      p.grad_cells = grad_all_cells && layer == last_layer ? at(*grad_all_cells, d * hidden, own_type) : nullptr;
      p.grad_cells_stride = directions * hidden;
      p.grad_h_n = part_of(grad_h_last, h_begin);
      p.grad_c_n = part_of(grad_c_last, c_begin);
      p.grad_gates = needs.gates ? data<T>(grad_gates_of_step) : take(gates_size);
      p.grad_gates_type = grad_gates_type;
      p.h_prev = take(h_size);
      p.hidden = take(hidden_size);
      p.grad_h = take(grad_h_size);
      p.grad_h_0 = grad_h_0 && !one_step ? data<T>(*grad_h_0) + h_begin : nullptr;
      p.grad_c_0 = data<T>(grad_c_0) + c_begin;
      p.gates = stack.keeps_gates ? at(reserve, stack.gates_begin(layer, d), own_type) : p.grad_gates;
      p.gates_type = p.weight_type;
      if (stack.keeps_gates) continue;
      const Tensor x = matrix(layer_input.rows(0, rows, x_scratch), rows, input_size);
      Tensor outputs = dense(stack.layer_output(reserve, layer), type);
      regenerate_pre_activations(
          stack, layer, d, w, x, dense(h_first, type), outputs, call.options, matrix(p.h_prev, rows, width),
          matrix(static_cast<T*>(p.grad_gates), rows, gates_width),
          [&](const Tensor& y, const Tensor& x, const Tensor& w) { multiply_by_transposed(kernels, y, x, w); });
      kernels.activate_gates({rows, hidden, static_cast<T*>(p.grad_gates)}, schedule.parallel);
    }

    if (needs_grad_x) {
      grad_x = empty(layer > 0 ? Sizes{rows, input_size} : stack.by_step(input_size), input, type);
      if (directions == 2) std::fill_n(data<T>(*grad_x), rows * input_size, T(0));
    }
    const auto first_time = [&](int64_t d, int64_t begin) {
      return d == 0 ? std::max<int64_t>(stack.seq_len - begin - range, 0) : std::max<int64_t>(begin - 1, 0);
    };
    for (int64_t begin = 0; begin < stack.seq_len; begin += range) {
      const int64_t end = std::min(begin + range, stack.seq_len);
      for (int64_t d = 0; d < directions; ++d) params[d].first_time = first_time(d, begin);
      kernels.backward({.shape = shape,
                        .directions = params,
                        .num_directions = static_cast<int>(directions),
                        .workspace = data<T>(scratch),
                        .steps = {begin, end},
                        .split = schedule.split,
                        .parallel = schedule.parallel});
      for (int64_t d = 0; d < directions; ++d) {
        const CpuBackwardParams<T>& p = params[d];
        const int64_t time = d == 0 ? stack.seq_len - end : begin, base = stack.first_row(p.first_time);
        const int64_t first = stack.first_row(time), last = stack.first_row(time + end - begin), count = last - first;
        const auto of_range = [&](T* results, int64_t size) {
          return results == nullptr ? nullptr : results + (first - base) * size;
        };
        const auto grad_gates_of = [&](int64_t row) {
          return static_cast<char*>(p.grad_gates) + row * gates_width * bytes(grad_gates_type);
        };
        const Rows grad_gates = {grad_gates_of(first - base), grad_gates_type};
        if (needs.weights)
          gradients[d].add(count, grad_gates, layer_input.rows(first, last, x_scratch), of_range(p.h_prev, width),
                           of_range(p.grad_h, width), of_range(p.hidden, hidden));
        ProductFactor factors[2] = {};
        int wanted = 0;
        if (needs_grad_x)
          factors[wanted++] = {input_size,    const_data<void>(weights[d].w_ih),
                               p.weight_type, data<T>(*grad_x) + first * input_size,
                               wide_type,     directions == 2};
        if (one_step && grad_h_0)
          factors[wanted++] = {width, const_data<void>(weights[d].w_hh), p.weight_type,
                               data<T>(*grad_h_0) + stack.h_begin(layer, d), wide_type};
        if (wanted > 0)
          multiply_matrices<T>(kernels,
                               {.rows = count,
                                .terms = gates_width,
                                .a = grad_gates.data,
                                .a_type = grad_gates.type,
                                .factors = {factors[0], factors[1]}},
                               input);
        if (end == stack.seq_len) continue;
        // The next range goes on from the last step of this one, and expects it in its own place.
        const int64_t step = d == 0 ? time : end - 1, row = stack.first_row(step);
        const int64_t next_base = stack.first_row(first_time(d, end));
        std::memmove(grad_gates_of(row - next_base), grad_gates_of(row - base),
                     (stack.first_row(step + 1) - row) * gates_width * bytes(grad_gates_type));
      }
    }
    for (const WeightGradients<T>& g : gradients) g.append_to(weight_gradients[layer]);
    if (grad_x && layer_input.mask()) grad_x = multiply(*grad_x, *layer_input.mask());
    grad_layer_output = grad_x;
  }

  if (!needs.input) grad_x.reset();
  return {dense(grad_x, stack.dtype), dense(grad_h_0, stack.dtype),
          needs.states ? OptionalTensor(dense(grad_c_0, stack.dtype)) : std::nullopt, in_order(weight_gradients),
          grad_gates_of_step};
}

}  // namespace

InputGrads backward_cpu(const Call& call, const OutputGrads& grads, const Tensor& reserve, Needs needs) {
  const Stack stack = Stack::of_backward(Platform::kCpu, call, grads, reserve);
  return stack.dtype == ScalarType::Double ? backward<double>(stack, call, grads, reserve, needs)
                                           : backward<float>(stack, call, grads, reserve, needs);
}

}  // namespace lstm_fused
