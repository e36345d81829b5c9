#include "torch/variant_layer.h"

namespace lstm_fused {
namespace {

void check(const char* name, const Tensor& tensor, SizeList sizes, ScalarType dtype,
           const torch::stable::Device& device) {
  bool same =
      tensor.device() == device && has_type(tensor, dtype) && tensor.dim() == static_cast<int64_t>(sizes.size());
  for (size_t n = 0; same && n < sizes.size(); ++n) same = tensor.size(static_cast<int64_t>(n)) == sizes[n];
  STD_TORCH_CHECK(same, "lstm_fused: ", name, " has another size, dtype or device than the others ask for");
}

}  // namespace

VariantLayer::VariantLayer(const VariantCall& call)
    : reverse(call.reverse), allow_tf32(call.allow_tf32), dtype(call.x.scalar_type()), device(call.x.device()) {
  STD_TORCH_CHECK(call.x.dim() == 3 && call.h_0.dim() == 2 && call.c_0.dim() == 2,
                  "lstm_fused: x must be 3-D, h_0 and c_0 2-D");
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "lstm_fused: x must be float32 or float64");
  seq_len = call.x.size(0);
  batch = call.x.size(1);
  input_size = call.x.size(2);
  proj_width = call.h_0.size(1);
  hidden_size = call.c_0.size(1);
  STD_TORCH_CHECK(seq_len > 0 && input_size > 0 && hidden_size > 0 && proj_width > 0 && proj_width <= hidden_size,
                  "lstm_fused: sizes of x, h_0 and c_0 do not describe an LSTM");
  has_projection = proj_width != hidden_size;
  const int64_t own = call.peephole + 6 * call.layer_norm;
  const int64_t others = static_cast<int64_t>(call.weights.size()) - 2 - has_projection - own;
  STD_TORCH_CHECK(
      others == 0 || others == 2,
      "lstm_fused: weights must hold w_ih, w_hh, [b_ih, b_hh], [w_hr], [peepholes], [six of the norms], got ",
      static_cast<int64_t>(call.weights.size()), " tensors");
  check("h_0", call.h_0, {batch, proj_width}, dtype, device);
  check("c_0", call.c_0, {batch, hidden_size}, dtype, device);
  const Tensor* next = call.weights.data();
  const auto take = [&](const char* name, SizeList sizes) {
    check(name, *next, sizes, dtype, device);
    return dense(*next++, dtype);
  };
  const int64_t gates = gates_width();
  weights.w_ih = take("w_ih", {gates, input_size});
  weights.w_hh = take("w_hh", {gates, proj_width});
  if (others == 2) {
    weights.b_ih = take("b_ih", {gates});
    weights.b_hh = take("b_hh", {gates});
  }
  if (has_projection) weights.w_hr = take("w_hr", {proj_width, hidden_size});
  if (call.peephole) weights.peepholes = take("peepholes", {3, hidden_size});
  for (int n = 0; n < 6 && call.layer_norm; ++n)
    weights.norms.push_back(take("a norm's weight or bias", {n < 4 ? gates : hidden_size}));

  const auto given = [&](const char* name, const OptionalTensor& tensor, SizeList sizes, ScalarType type) {
    if (tensor) check(name, *tensor, sizes, type, device);
    return dense(tensor, type);
  };
  lengths = given("lengths", call.lengths, {batch}, ScalarType::Long);
  reset = given("reset", call.reset, {seq_len, batch}, ScalarType::Bool);
  zoneout_h_mask = given("zoneout_h_mask", call.zoneout_h_mask, {seq_len, batch, proj_width}, dtype);
  zoneout_c_mask = given("zoneout_c_mask", call.zoneout_c_mask, {seq_len, batch, hidden_size}, dtype);
  recurrent_mask = given("recurrent_mask", call.recurrent_mask, {batch, proj_width}, dtype);
  zoneout_h = call.zoneout_h;
  zoneout_c = call.zoneout_c;
  cell_clip = call.cell_clip;
}

LayerShape VariantLayer::shape() const {
  return {.seq_len = seq_len,
          .batch = batch,
          .hidden_size = hidden_size,
          .proj_width = proj_width,
          .output_stride = proj_width,
          .cells_stride = hidden_size,
          .cells_time = batch * hidden_size,
          .has_projection = has_projection,
          .segments = {const_data<int64_t>(lengths), const_data<bool>(reset)}};
}

Problem VariantLayer::problem(bool training) const {
  return {.seq_len = seq_len,
          .batch = batch,
          .input_size = input_size,
          .hidden_size = hidden_size,
          .proj_size = has_projection ? proj_width : 0,
          .dtype = kernel_type(dtype),
          .allow_tf32 = allow_tf32,
          .training = training,
          .is_variant = true,
          .has_norms = has_norms()};
}

void VariantLayer::check_gradients(const VariantOutputGrads& grads, const Tensor& reserve) const {
  const auto given = [&](const OptionalTensor& grad, SizeList sizes) {
    if (grad) check("a gradient", *grad, sizes, dtype, device);
  };
  given(grads.h, {seq_len, batch, proj_width});
  given(grads.cells, {seq_len, batch, hidden_size});
  given(grads.h_n, {batch, proj_width});
  given(grads.c_n, {batch, hidden_size});
  check("reserve of a call in training", reserve, {reserve_size()}, dtype, device);
}

}  // namespace lstm_fused
