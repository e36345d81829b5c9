#include "torch/stack.h"

#include <algorithm>
#include <functional>

namespace lstm_fused {
namespace {

ScalarType wide_type(ScalarType dtype) { return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

}  // namespace

DType kernel_type(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      return DType::kFloat32;
  }
}

Stack Stack::of_forward(Platform platform, const Call& call, bool training) {
  Stack stack(platform, call);
  stack.keeps_gates = training && !call.options.recompute_gates;
  return stack;
}

Stack Stack::of_backward(Platform platform, const Call& call, const OutputGrads& grads, const Tensor& reserve) {
  Stack stack(platform, call);
  // Gates were kept if the reserve has room for them.
  stack.keeps_gates = reserve.dim() != 1 || reserve.size(0) >= stack.reserve_size();
  stack.check_gradients(grads, reserve);
  return stack;
}

// `lengths` says how packed input, (N, I), is laid out.
Stack::Stack(Platform platform, const Call& call) : platform(platform), device(call.input.device()) {
  const auto& [input, h_0, c_0, weights, options] = call;
  const bool packed = input.dim() == 2 && platform == Platform::kCpu;
  STD_TORCH_CHECK((input.dim() == 3 || packed) && h_0.dim() == 3 && c_0.dim() == 3,
                  "lstm_fused: input, h_0 and c_0 must be 3-D");
  dtype = input.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  "lstm_fused: input must be float32, float64, float16 or bfloat16");
  cell_dtype = wide_type(dtype);
  compute_dtype = platform == Platform::kCpu ? cell_dtype : dtype;
  seq_len = input.size(0);
  batch = packed ? h_0.size(1) : input.size(1);
  input_size = input.size(input.dim() - 1);
  hidden_size = c_0.size(2);
  proj_width = h_0.size(2);
  num_directions = options.bidirectional ? 2 : 1;
  num_layers = h_0.size(0) / num_directions;
  has_projection = proj_width != hidden_size;
  const int64_t count = static_cast<int64_t>(weights.size()), per = count / (num_layers > 0 ? h_0.size(0) : 1);
  has_biases = per >= 4;

  STD_TORCH_CHECK(seq_len > 0 && input_size > 0 && hidden_size > 0 && proj_width > 0 && num_layers > 0 &&
                      proj_width <= hidden_size && num_layers * num_directions == h_0.size(0),
                  "lstm_fused: sizes of input, h_0 and c_0 do not describe an LSTM");
  STD_TORCH_CHECK(count == weights_per_direction() * h_0.size(0),
                  "lstm_fused: weights must hold w_ih, w_hh, [b_ih, b_hh], [w_hr] for each layer and direction, got ",
                  count, " tensors");
  check("h_0", h_0, {h_0.size(0), batch, proj_width}, dtype);
  check("c_0", c_0, {h_0.size(0), batch, hidden_size}, dtype);
  if (packed) lay_out_packed(input, options.lengths);
  for (int64_t n = 0; n < h_0.size(0); ++n) {
    const Tensor* w = weights.data() + n * weights_per_direction();
    check("w_ih", *w++, {kNumGates * hidden_size, layer_input_size(n / num_directions)}, dtype);
    check("w_hh", *w++, {kNumGates * hidden_size, proj_width}, dtype);
    if (has_biases) check("b_ih", *w++, {kNumGates * hidden_size}, dtype);
    if (has_biases) check("b_hh", *w++, {kNumGates * hidden_size}, dtype);
    if (has_projection) check("w_hr", *w++, {proj_width, hidden_size}, dtype);
  }
  check_masks(options);
}

void Stack::lay_out_packed(const Tensor& input, const OptionalTensor& lengths) {
  STD_TORCH_CHECK(lengths && lengths->is_contiguous() && batch > 0, "lstm_fused: packed input needs lengths");
  check("lengths", *lengths, {batch}, ScalarType::Long);
  const int64_t* const length = const_data<int64_t>(*lengths);
  seq_len = length[0];
  STD_TORCH_CHECK(std::is_sorted(length, length + batch, std::greater<int64_t>()) && seq_len <= input.size(0),
                  "lstm_fused: lengths of packed input must not grow");
  int64_t row = 0, rows_left = batch;
  for (int64_t t = 0; t < seq_len; ++t, row += rows_left) {
    row_begin.push_back(row);
    while (length[rows_left - 1] <= t) --rows_left;
  }
  row_begin.push_back(row);
  STD_TORCH_CHECK(row == input.size(0) && row > 0, "lstm_fused: lengths of packed input must add up to its size");
}

void Stack::check(const char* name, const Tensor& tensor, SizeList expected, ScalarType type) const {
  const auto sizes = tensor.sizes();
  const bool same = std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end());
  STD_TORCH_CHECK(same, "lstm_fused: ", name, " does not have the size that input, h_0 and c_0 imply");
  STD_TORCH_CHECK(has_type(tensor, type), "lstm_fused: ", name, " has another dtype than expected");
  STD_TORCH_CHECK(tensor.device() == device, "lstm_fused: ", name, " is on another device than input");
}

DirectionWeights Stack::weights(const std::vector<Tensor>& all, int64_t layer, int64_t direction) const {
  const Tensor* w = all.data() + (layer * num_directions + direction) * weights_per_direction();
  const auto next = [&](ScalarType type) { return dense(*w++, type); };
  DirectionWeights result{next(dtype), next(dtype), {}, {}, {}};
  if (has_biases) {
    result.b_ih = next(compute_dtype);
    result.b_hh = next(compute_dtype);
  }
  if (has_projection) result.w_hr = next(dtype);
  return result;
}

Tensor Stack::mask(const OptionalTensor& dropout_mask, int64_t layer, ScalarType type) const {
  const Tensor of_layer = dense(torch::stable::select(*dropout_mask, 0, layer - 1), type);
  return torch::stable::view(of_layer, {num_rows(), output_width()});
}

Tensor Stack::gates(const Tensor& reserve, int64_t layer, int64_t direction) const {
  return slice(reserve, gates_begin(layer, direction), {num_rows(), kNumGates * hidden_size});
}

Tensor Stack::cells(const Tensor& reserve, int64_t layer, int64_t direction) const {
  const Tensor part = slice(reserve, cells_begin(layer, direction), {num_rows(), hidden_size * elements_per_cell()});
  return elements_per_cell() == 1 ? part : reinterpret(part, cell_dtype);
}

Tensor Stack::layer_output(const Tensor& reserve, int64_t layer) const {
  return slice(reserve, output_begin(layer), {num_rows(), output_width()});
}

int64_t Stack::output_begin(int64_t layer) const {
  return num_layers * num_directions * reserve_per_state() + layer * num_rows() * output_width();
}

int64_t Stack::gates_begin(int64_t layer, int64_t direction) const {
  return (layer * num_directions + direction) * reserve_per_state();
}

int64_t Stack::cells_begin(int64_t layer, int64_t direction) const {
  return gates_begin(layer, direction) + num_rows() * hidden_size * elements_of_gates();
}

int64_t Stack::reserve_per_state() const {
  return num_rows() * hidden_size * (elements_of_gates() + elements_per_cell());
}

int64_t Stack::reserve_size() const {
  return num_layers * (num_directions * reserve_per_state() + (keeps_outputs() ? num_rows() * output_width() : 0));
}

Problem Stack::problem(bool training, bool has_lengths, bool has_reset) const {
  Problem problem;
  problem.seq_len = seq_len;
  problem.batch = batch;
  problem.input_size = input_size;
  problem.hidden_size = hidden_size;
  problem.proj_size = has_projection ? proj_width : 0;
  problem.num_layers = num_layers;
  problem.num_directions = num_directions;
  problem.dtype = kernel_type(dtype);
  problem.training = training;
  problem.has_lengths = has_lengths;
  problem.has_reset = has_reset;
  return problem;
}

LayerShape Stack::layer_shape(const Options& options) const {
  LayerShape shape;
  shape.seq_len = seq_len;
  shape.batch = batch;
  shape.hidden_size = hidden_size;
  shape.proj_width = proj_width;
  shape.output_stride = output_width();
  shape.cells_stride = hidden_size;
  shape.cells_time = batch * hidden_size;
  shape.has_projection = has_projection;
  shape.segments = {const_data<int64_t>(options.lengths), const_data<bool>(options.reset)};
  if (is_packed()) shape.row_begin = row_begin.data();
  return shape;
}

void Stack::check_masks(const Options& options) const {
  if (const OptionalTensor& lengths = options.lengths) {
    check("lengths", *lengths, {batch}, ScalarType::Long);
    STD_TORCH_CHECK(lengths->is_contiguous(), "lstm_fused: lengths must be contiguous");
    for (int64_t b = 0; platform == Platform::kCpu && b < batch; ++b) {  // CUDA kernels clamp them
      const int64_t length = const_data<int64_t>(*lengths)[b];
      STD_TORCH_CHECK(length >= 0 && length <= seq_len, "lstm_fused: lengths must lie in [0, ", seq_len, "], got ",
                      length);
    }
  }
  if (const OptionalTensor& reset = options.reset) {
    check("reset", *reset, {seq_len, batch}, ScalarType::Bool);
    STD_TORCH_CHECK(reset->is_contiguous(), "lstm_fused: reset must be contiguous");
  }
  if (options.dropout_mask) {
    Sizes sizes = by_step(output_width());
    sizes.insert(sizes.begin(), num_layers - 1);
    check("dropout_mask", *options.dropout_mask, sizes, dtype);
  }
}

void Stack::check_gradients(const OutputGrads& grads, const Tensor& reserve) const {
  if (grads.output) check("grad_output", *grads.output, by_step(output_width()), dtype);
  if (grads.h_n) check("grad_h_n", *grads.h_n, {num_states(), batch, proj_width}, dtype);
  if (grads.c_n) check("grad_c_n", *grads.c_n, {num_states(), batch, hidden_size}, dtype);
  if (grads.cells) check("grad_cells", *grads.cells, by_step(num_directions * hidden_size), dtype);
  check("reserve", reserve, {reserve_size()}, dtype);
}

std::vector<Tensor> in_order(const std::vector<std::vector<Tensor>>& of_layers) {
  std::vector<Tensor> all;
  for (const auto& of_layer : of_layers) all.insert(all.end(), of_layer.begin(), of_layer.end());
  return all;
}

}  // namespace lstm_fused
