#include "torch/regenerate.h"

#include <algorithm>

namespace lstm_fused {
namespace {

void copy(Tensor to, const Tensor& from) { torch::stable::copy_(to, from); }

void zero_where(const Tensor& condition, const Tensor& tensor) {
  call_operator("aten::masked_fill_", "Tensor", tensor, condition, torch::stable::new_zeros(tensor, {}));
}

// What csrc/clock.h says of single steps, of all at once.
void copy_by_step(const Stack& s, bool reverse, const Tensor& h_0, const Tensor& h, const OptionalTensor& lengths,
                  const OptionalTensor& reset, const Tensor& h_prev) {
  const int64_t last = s.seq_len - 1;
  copy(part(h_prev, 0, reverse ? 0 : 1, last), part(h, 0, reverse ? 1 : 0, last));
  copy(part(h_prev, 0, reverse ? last : 0, 1), h_0);
  if (reset) {
    const Tensor starts = torch::stable::view(*reset, {s.seq_len, s.batch, 1});
    zero_where(reverse ? part(starts, 0, 1, last) : starts, reverse ? part(h_prev, 0, 0, last) : h_prev);
  }
  if (reverse && lengths) {  // a row that ends early begins at its own end
    const Tensor begins = call_operator("aten::eq", "Tensor", counted_steps(s.seq_len, *lengths), *lengths);
    copy(h_prev,
         call_operator("aten::where", "self", torch::stable::view(begins, {s.seq_len, s.batch, 1}), h_0, h_prev));
  }
}

// The same of packed rows (N, P), step by step: a step's rows are the first of those of the step before it.
void copy_packed_h_prev(const Stack& s, bool reverse, const Tensor& h_0, const Tensor& h, const OptionalTensor& reset,
                        const Tensor& h_prev) {
  const auto count = [&](int64_t t) { return s.first_row(t + 1) - s.first_row(t); };
  for (int64_t t = 0; t < s.seq_len; ++t) {
    const Tensor to = part(h_prev, 0, s.first_row(t), count(t));
    copy(to, part(h_0, 0, 0, count(t)));
    const int64_t previous = reverse ? t + 1 : t - 1;
    const bool has_previous = previous >= 0 && previous < s.seq_len;
    const int64_t carried = has_previous ? std::min(count(t), count(previous)) : 0;
    copy(part(to, 0, 0, carried), part(h, 0, has_previous ? s.first_row(previous) : 0, carried));
    if (!reset || (reverse && !has_previous)) continue;
    const Tensor starts = torch::stable::view(torch::stable::select(*reset, 0, reverse ? previous : t), {s.batch, 1});
    const int64_t cut = reverse ? carried : count(t);
    zero_where(part(starts, 0, 0, cut), part(to, 0, 0, cut));
  }
}

Tensor beside(const std::vector<Tensor>& parts) { return call_operator("aten::cat", "", parts, int64_t{1}); }

}  // namespace

void copy_h_prev(const Stack& s, int64_t layer, int64_t direction, const Tensor& h_0, const Tensor& layer_output,
                 const Options& options, const Tensor& h_prev) {
  const auto& [lengths, reset] = std::tie(options.lengths, options.reset);
  const Tensor first = part(h_0, 0, layer * s.num_directions + direction, 1);
  if (s.is_packed()) {
    const Tensor h = part(layer_output, 1, direction * s.proj_width, s.proj_width);
    copy_packed_h_prev(s, direction == 1, torch::stable::view(first, {s.batch, s.proj_width}), h, reset, h_prev);
  } else {
    const Tensor outputs = torch::stable::view(layer_output, s.by_step(s.output_width()));
    copy_by_step(s, direction == 1, first, part(outputs, 2, direction * s.proj_width, s.proj_width), lengths, reset,
                 torch::stable::view(h_prev, s.by_step(s.proj_width)));
  }
}

// [x h_prev 1 1] [W_ih W_hh b_ih b_hh]^T is one product and one rounding, with the biases added last.
void regenerate_pre_activations(const Stack& s, int64_t layer, int64_t direction, const DirectionWeights& weights,
                                const Tensor& x, const Tensor& h_0, const Tensor& layer_output, const Options& options,
                                const Tensor& h_prev, const Tensor& gates, const Product& product) {
  copy_h_prev(s, layer, direction, h_0, layer_output, options, h_prev);

  // Tensor cores want rows of a multiple of 16 bytes: zeros beside the biases, which meet further ones.
  constexpr int64_t kMultiple = 8;
  const int64_t gates_width = kNumGates * s.hidden_size, used = x.size(1) + s.proj_width + 2 * s.has_biases;
  const int64_t padding = (kMultiple - used % kMultiple) % kMultiple;
  std::vector<Tensor> factors = {weights.w_ih, weights.w_hh};
  if (s.has_biases)
    for (const Tensor& bias : {*weights.b_ih, *weights.b_hh})
      factors.push_back(torch::stable::view(bias, {gates_width, 1}));
  factors.push_back(torch::stable::new_zeros(x, {gates_width, padding}));
  Tensor ones = empty({s.num_rows(), 2 * s.has_biases + padding}, x, s.compute_dtype);
  torch::stable::fill_(ones, 1.0);
  product(gates, beside({x, h_prev, ones}), beside(factors));
}

}  // namespace lstm_fused
