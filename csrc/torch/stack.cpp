#include "torch/stack.h"

#include <algorithm>
#include <cstring>
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

Stack::Stack(Platform platform, const Tensor& input, const Tensor& h_0, const Tensor& c_0,
             const std::vector<Tensor>& weights, bool bidirectional, const OptionalTensor& lengths)
    : platform(platform), device(input.device()) {
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
  num_directions = bidirectional ? 2 : 1;
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
  if (packed) lay_out_packed(input, lengths);
  for (int64_t n = 0; n < h_0.size(0); ++n) {
    const Tensor* w = weights.data() + n * weights_per_direction();
    check("w_ih", *w++, {kNumGates * hidden_size, layer_input_size(n / num_directions)}, dtype);
    check("w_hh", *w++, {kNumGates * hidden_size, proj_width}, dtype);
    if (has_biases) check("b_ih", *w++, {kNumGates * hidden_size}, dtype);
    if (has_biases) check("b_hh", *w++, {kNumGates * hidden_size}, dtype);
    if (has_projection) check("w_hr", *w++, {proj_width, hidden_size}, dtype);
  }
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

void Stack::look_at(const Tensor& reserve) {
  keeps_gates = true;
  keeps_gates = reserve.dim() != 1 || reserve.size(0) >= reserve_size();
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

LayerShape Stack::layer_shape(const OptionalTensor& lengths, const OptionalTensor& reset) const {
  LayerShape shape;
  shape.seq_len = seq_len;
  shape.batch = batch;
  shape.hidden_size = hidden_size;
  shape.proj_width = proj_width;
  shape.output_stride = output_width();
  shape.cells_stride = hidden_size;
  shape.cells_time = batch * hidden_size;
  shape.has_projection = has_projection;
  shape.segments = {const_data<int64_t>(lengths), const_data<bool>(reset)};
  if (is_packed()) shape.row_begin = row_begin.data();
  return shape;
}

void Stack::check_masks(const OptionalTensor& lengths, const OptionalTensor& reset,
                        const OptionalTensor& dropout_mask) const {
  if (lengths) {
    check("lengths", *lengths, {batch}, ScalarType::Long);
    STD_TORCH_CHECK(lengths->is_contiguous(), "lstm_fused: lengths must be contiguous");
    for (int64_t b = 0; platform == Platform::kCpu && b < batch; ++b) {  // CUDA kernels clamp them
      const int64_t length = const_data<int64_t>(*lengths)[b];
      STD_TORCH_CHECK(length >= 0 && length <= seq_len, "lstm_fused: lengths must lie in [0, ", seq_len, "], got ",
                      length);
    }
  }
  if (reset) {
    check("reset", *reset, {seq_len, batch}, ScalarType::Bool);
    STD_TORCH_CHECK(reset->is_contiguous(), "lstm_fused: reset must be contiguous");
  }
  if (dropout_mask) {
    Sizes sizes = by_step(output_width());
    sizes.insert(sizes.begin(), num_layers - 1);
    check("dropout_mask", *dropout_mask, sizes, dtype);
  }
}

void Stack::check_gradients(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                            const OptionalTensor& grad_c_n, const OptionalTensor& grad_cells,
                            const Tensor& reserve) const {
  const int64_t states = num_layers * num_directions;
  if (grad_output) check("grad_output", *grad_output, by_step(output_width()), dtype);
  if (grad_h_n) check("grad_h_n", *grad_h_n, {states, batch, proj_width}, dtype);
  if (grad_c_n) check("grad_c_n", *grad_c_n, {states, batch, hidden_size}, dtype);
  if (grad_cells) check("grad_cells", *grad_cells, by_step(num_directions * hidden_size), dtype);
  check("reserve", reserve, {reserve_size()}, dtype);
}

void fill_in_states(OptionalTensor& h_0, OptionalTensor& c_0, const Tensor& input, const std::vector<Tensor>& weights,
                    int64_t num_states) {
  if (h_0 && c_0) return;
  STD_TORCH_CHECK(input.dim() == 3 && num_states > 0 && weights.size() > 1 && weights[1].dim() == 2,
                  "lstm_fused: input must be 3-D, and weights must begin with w_ih and w_hh");
  const int64_t hidden = weights[1].size(0) / kNumGates, width = weights[1].size(1);
  const auto zeros = [&](int64_t size) {
    const Tensor result = empty({num_states, input.size(1), size}, input, input.scalar_type());
    if (result.is_cpu())
      std::memset(result.mutable_data_ptr(), 0, result.numel() * result.element_size());
    else
      TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(result.get()));
    return result;
  };
  const bool are_alike = !h_0 && !c_0 && width == hidden;
  if (!c_0) c_0 = zeros(hidden);
  if (!h_0) h_0 = are_alike ? *c_0 : zeros(width);
}

}  // namespace lstm_fused
