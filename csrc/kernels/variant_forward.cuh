// Forward of the cell's variants, but for the products. Blocks are rows of the batch.
#pragma once

#include "kernels/variant_rows.cuh"

namespace lstm_fused {

template <class T>
struct VariantForwardStep {
  LayerShape shape;
  VariantForwardParams<T> params;
  int64_t step;
};

// h~ of unit n becomes h.
template <class T>
LSTM_FUSED_DEVICE T zoned_out_h(const VariantForwardRows<T>& rows, int64_t t, int64_t b, int64_t n, T hidden) {
  const VariantCell<T>& cell = rows.p.cell;
  if (cell.zoneout_h == nullptr && cell.keeps_h == 0) return hidden;
  const T* const before = rows.h_before(t, b);
  return zoned_out(mask_at(cell.zoneout_h, rows.s, t, b, rows.s.proj_width, n), cell.keeps_h,
                   before == nullptr ? T(0) : before[n], hidden);
}

// m h and c that a step starts from, of unit n.
template <class T>
LSTM_FUSED_DEVICE void start(const VariantForwardRows<T>& rows, int64_t t, int64_t b, int64_t n) {
  if (t >= rows.clock.length(b)) return;
  const int64_t width = rows.s.proj_width;
  const T *const c = rows.c_before(t, b), *const h = rows.h_before(t, b), *const mask = rows.p.cell.recurrent_mask;
  rows.c_prev(t, b)[n] = c == nullptr ? T(0) : c[n];
  if (n >= width) return;
  const T factor = h == nullptr ? T(0) : h[n];
  rows.factor(t, b)[n] = mask == nullptr ? factor : mask[b * width + n] * factor;
}

// Behind a projection h~ of the step becomes h; then, of every cell, the next step starts, or h_n and c_n are left.
// Step -1 is before the first.
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_forward_states_kernel(LSTM_FUSED_PARAMS VariantForwardStep<T> arguments) {
  const VariantForwardRows<T> rows(arguments.shape, arguments.params);
  const LayerShape& s = rows.s;
  const auto& p = rows.p;
  const Clock& clock = rows.clock;
  const int64_t b = block_index().x, step = arguments.step, length = clock.length(b);
  for_units(s.hidden_size, [&](int64_t n) {
    const int64_t t = clock.time(step);
    if (step >= 0 && s.has_projection && n < s.proj_width && t < length) {
      T* const h = rows.output(t, b) + n;
      *h = zoned_out_h(rows, t, b, n, *h);
    }
    if (step + 1 < s.seq_len) return start(rows, clock.time(step + 1), b, n);
    const int64_t last = clock.last(b), c_at = b * s.hidden_size + n, h_at = b * s.proj_width + n;
    p.c_n[c_at] = length == 0 ? p.c_0[c_at] : rows.cells(last, b)[n];
    if (n < s.proj_width) p.h_n[h_at] = length == 0 ? p.h_0[h_at] : rows.output(last, b)[n];
  });
}

// The norm of x W_ih^T, of all steps. grid: T B
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_forward_input_kernel(LSTM_FUSED_PARAMS VariantForwardStep<T> arguments) {
  const VariantForwardRows<T> rows(arguments.shape, arguments.params);
  const int64_t width = rows.s.hidden_size, t = block_index().x / rows.s.batch, b = block_index().x % rows.s.batch;
  if (t >= rows.clock.length(b)) return;
  T* const sums = rows.gates_row(rows.p.kept.input_sums, t, b);
  const Moments<T> m = gate_moments<0, T>(width, sums);
  for_units(width, [&](int64_t n) {
    const auto normalised = [&](T x) { return (x - m.mean) * m.scale; };
    store_gates(sums + n, width, gate_by_gate(normalised, load_gates(sums + n, width)));
  });
  if (rows.p.kept.all_states && thread_index() == 0) rows.statistics(t, b)[kScaleIh] = m.scale;
}

// What nobody computes, past a row's length, of unit n.
template <class T>
LSTM_FUSED_DEVICE void clear(const VariantForwardRows<T>& rows, int64_t t, int64_t b, int64_t n) {
  const auto& kept = rows.p.kept;
  const int64_t width = rows.s.hidden_size;
  const bool in_h = n < rows.s.proj_width;
  if (in_h) rows.output(t, b)[n] = 0;
  rows.cells(t, b)[n] = 0;
  if (!kept.all_states) return;
  store_gates(rows.gates_row(kept.gates, t, b) + n, width, Gates<T>{});
  if (in_h) rows.factor(t, b)[n] = 0;
  rows.c_prev(t, b)[n] = 0;
  rows.raw(t, b)[n] = 0;
  if (!rows.p.cell.has_norms()) return;
  store_gates(rows.gates_row(kept.input_sums, t, b) + n, width, Gates<T>{});
  store_gates(rows.recurrent_sums(t, b) + n, width, Gates<T>{});
  if (n == 0)
    for (int k = 0; k < kNumStatistics; ++k) rows.statistics(t, b)[k] = 0;
}

// c~ of a step's row, and h~ = o tanh(inner).
template <class T>
LSTM_FUSED_DEVICE void leave(const VariantForwardRows<T>& rows, int64_t t, int64_t b, int64_t n, T o, T c, T inner) {
  const LayerShape& s = rows.s;
  const auto& p = rows.p;
  rows.cells(t, b)[n] =
      zoned_out(mask_at(p.cell.zoneout_c, s, t, b, s.hidden_size, n), p.cell.keeps_c, rows.c_prev(t, b)[n], c);
  const T hidden = o * VariantMath<T>::tanh(inner);
  if (s.has_projection)
    p.hidden[b * s.hidden_size + n] = hidden;
  else
    rows.output(t, b)[n] = zoned_out_h(rows, t, b, n, hidden);
}

template <class T>
LSTM_FUSED_DEVICE void forward_cell(const VariantForwardRows<T>& rows, int64_t t, int64_t b) {
  using Math = VariantMath<T>;
  const auto& p = rows.p;
  const int64_t width = rows.s.hidden_size;
  const bool norms = p.cell.has_norms(), keeps = p.kept.all_states;
  const T* const input = rows.gates_row(p.kept.input_sums, t, b);
  T *const sums = rows.recurrent_sums(t, b), *const gates = rows.gates_row(p.kept.gates, t, b),
           *const raw = rows.raw(t, b);
  Moments<T> of_sums{};
  if (norms) of_sums = gate_moments<0, T>(width, sums);
  for_units(width, [&](int64_t n) {
    const auto at = [&](const T* values) { return load_gates(values + n, width); };
    Gates<T> pre = at(input), from_h = at(sums);
    if (norms) {
      const auto weighted = [](T x, T weight, T bias) { return x * weight + bias; };
      from_h = gate_by_gate([&](T x) { return (x - of_sums.mean) * of_sums.scale; }, from_h);
      store_gates(sums + n, width, from_h);
      pre = gate_by_gate(weighted, pre, at(p.cell.norm_ih.weight), at(p.cell.norm_ih.bias));
      from_h = gate_by_gate(weighted, from_h, at(p.cell.norm_hh.weight), at(p.cell.norm_hh.bias));
    }
    pre = add(add(pre, from_h), bias_of(p.b_ih, p.b_hh, n, width));
    const CellStep<T> next = variant_cell<Math>(pre, rows.c_prev(t, b)[n], extras_at(p.cell, width, n));
    if (keeps || norms) {
      store_gates(gates + n, width, next.gates);
      raw[n] = next.raw;
    }
    if (!norms) leave(rows, t, b, n, next.gates.o, next.c, next.c);
  });
  if (!norms) return;
  const auto clipped = [&](int64_t n) { return extras_at(p.cell, width, n).template clipped<Math>(raw[n]); };
  const Moments<T> of_c = moments<3, T>(width, width, [&](int64_t n, auto&& f) { f(clipped(n)); });
  for_units(width, [&](int64_t n) {
    const T c = clipped(n), normalised = (c - of_c.mean) * of_c.scale;
    leave(rows, t, b, n, gates[3 * width + n], c, normalised * p.cell.norm_c.weight[n] + p.cell.norm_c.bias[n]);
  });
  if (keeps && thread_index() == 0) {
    T* const statistics = rows.statistics(t, b);
    statistics[kScaleHh] = of_sums.scale;
    statistics[kMeanC] = of_c.mean;
    statistics[kScaleC] = of_c.scale;
  }
}

// From W_hh (m h) to h, or with a projection to what that multiplies. grid: B
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_forward_cell_kernel(LSTM_FUSED_PARAMS VariantForwardStep<T> arguments) {
  const VariantForwardRows<T> rows(arguments.shape, arguments.params);
  const int64_t b = block_index().x, t = rows.clock.time(arguments.step), width = rows.s.hidden_size;
  if (t < rows.clock.length(b))
    forward_cell(rows, t, b);
  else
    for_units(width, [&](int64_t n) { clear(rows, t, b, n); });
  if (rows.s.has_projection || arguments.step + 1 == rows.s.seq_len) return;
  for_units(width, [&](int64_t n) { start(rows, rows.clock.time(arguments.step + 1), b, n); });
}

}  // namespace lstm_fused
