// The kernels of the cell's variants, forward.
#pragma once

#include "kernels/variant_product.cuh"
#include "kernels/variant_rows.cuh"

namespace lstm_fused {

template <class T>
struct VariantForwardStep {
  LayerShape shape;
  VariantForwardParams<T> params;
  int64_t step;
};

// What a step starts from, c of unit n and m h of column n.
template <class T>
LSTM_FUSED_DEVICE void start_c(const VariantForwardRows<T>& rows, int64_t step, int64_t b, int64_t n) {
  const int64_t t = rows.clock.time(step);
  if (step == rows.s.seq_len || t >= rows.clock.length(b)) return;
  const T* const c = rows.c_before(t, b);
  rows.c_prev(t, b)[n] = c == nullptr ? T(0) : c[n];
}
template <class T>
LSTM_FUSED_DEVICE void start_h(const VariantForwardRows<T>& rows, int64_t step, int64_t b, int64_t n) {
  const int64_t t = rows.clock.time(step);
  if (step == rows.s.seq_len || t >= rows.clock.length(b)) return;
  const T *const before = rows.h_before(t, b), *const mask = rows.p.cell.recurrent_mask;
  const T h = before == nullptr ? T(0) : before[n];
  rows.factor(t, b)[n] = mask == nullptr ? h : mask[b * rows.s.proj_width + n] * h;
}

// h~ of column n, on to h.
template <class T>
LSTM_FUSED_DEVICE void leave_h(const VariantForwardRows<T>& rows, int64_t t, int64_t b, int64_t n, T h) {
  const VariantCell<T>& cell = rows.p.cell;
  if (cell.zoneout_h != nullptr || cell.keeps_h != 0) {
    const T* const before = rows.h_before(t, b);
    h = zoned_out(mask_at(cell.zoneout_h, rows.s, t, b, rows.s.proj_width, n), cell.keeps_h,
                  before == nullptr ? T(0) : before[n], h);
  }
  rows.output(t, b)[n] = h;
}

// c~ of unit n, on to c, and h~ = o tanh(inner), on to what a projection multiplies or to h.
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
    leave_h(rows, t, b, n, hidden);
}

// The cell of unit n, up to c~; `pre` lacks the biases.
template <class T>
LSTM_FUSED_DEVICE CellStep<T> forward_unit(const VariantForwardRows<T>& rows, int64_t t, int64_t b, int64_t n,
                                           const Gates<T>& pre) {
  const auto& p = rows.p;
  const int64_t width = rows.s.hidden_size;
  const CellStep<T> next = variant_cell<VariantMath<T>>(add(pre, bias_of(p.b_ih, p.b_hh, n, width)),
                                                        rows.c_prev(t, b)[n], extras_at(p.cell, width, n));
  if (p.kept.all_states || p.cell.has_norms()) {
    store_gates(rows.gates_row(p.kept.gates, t, b) + n, width, next.gates);
    rows.raw(t, b)[n] = next.raw;
  }
  return next;
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

// Behind the last thing that a step does to unit n.
template <class T>
LSTM_FUSED_DEVICE void start_next(const VariantForwardRows<T>& rows, int64_t step, int64_t b, int64_t n) {
  start_c(rows, step + 1, b, n);
  if (!rows.s.has_projection) start_h(rows, step + 1, b, n);
}

// W_hh (m h), and where no norm needs all of a row, the cell. grid: row tiles of the batch, tiles of 8 hidden units.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_variant_forward_kernel(LSTM_FUSED_PARAMS VariantForwardStep<Element<A>> arguments) {
  using T = Element<A>;
  const VariantForwardRows<T> rows(arguments.shape, arguments.params);
  const auto& p = rows.p;
  const int64_t step = arguments.step, t = rows.clock.time(step), width = rows.s.hidden_size;
  unit_product<A>(
      p.w_hh, rows.s, p.kept.factor,
      [&](int64_t b) -> const T* { return t < rows.clock.length(b) ? rows.factor(t, b) : nullptr; },
      [&](int64_t b, int64_t n, const Gates<T>& from_h) {
        const bool exists = t < rows.clock.length(b);
        if (p.cell.has_norms()) {
          if (exists) store_gates(rows.recurrent_sums(t, b) + n, width, from_h);
          return;
        }
        if (exists) {
          const Gates<T> input = load_gates(rows.gates_row(p.kept.input_sums, t, b) + n, width);
          const CellStep<T> next = forward_unit(rows, t, b, n, add(input, from_h));
          leave(rows, t, b, n, next.gates.o, next.c, next.c);
        } else {
          clear(rows, t, b, n);
        }
        start_next(rows, step, b, n);
      });
}

template <class T>
LSTM_FUSED_DEVICE void forward_normalised(const VariantForwardRows<T>& rows, int64_t t, int64_t b) {
  const auto& p = rows.p;
  const int64_t width = rows.s.hidden_size;
  const T *const input = rows.gates_row(p.kept.input_sums, t, b), *const gates = rows.gates_row(p.kept.gates, t, b),
                 *const raw = rows.raw(t, b);
  T* const sums = rows.recurrent_sums(t, b);
  const Moments<T> of_sums = gate_moments<0, T>(width, sums);
  for_units(width, [&](int64_t n) {
    const auto at = [&](const T* values) { return load_gates(values + n, width); };
    const auto weighted = [](T x, T weight, T bias) { return x * weight + bias; };
    const Gates<T> from_h = gate_by_gate([&](T x) { return (x - of_sums.mean) * of_sums.scale; }, at(sums));
    store_gates(sums + n, width, from_h);
    forward_unit(rows, t, b, n,
                 add(gate_by_gate(weighted, at(input), at(p.cell.norm_ih.weight), at(p.cell.norm_ih.bias)),
                     gate_by_gate(weighted, from_h, at(p.cell.norm_hh.weight), at(p.cell.norm_hh.bias))));
  });
  const auto clipped = [&](int64_t n) { return extras_at(p.cell, width, n).template clipped<VariantMath<T>>(raw[n]); };
  const Moments<T> of_c = moments<3, T>(width, width, [&](int64_t n, auto&& f) { f(clipped(n)); });
  for_units(width, [&](int64_t n) {
    const T c = clipped(n), normalised = (c - of_c.mean) * of_c.scale;
    leave(rows, t, b, n, gates[3 * width + n], c, normalised * p.cell.norm_c.weight[n] + p.cell.norm_c.bias[n]);
  });
  if (!p.kept.all_states || thread_index() != 0) return;
  T* const statistics = rows.statistics(t, b);
  statistics[kScaleHh] = of_sums.scale;
  statistics[kMeanC] = of_c.mean;
  statistics[kScaleC] = of_c.scale;
}

// With norms, the cell. grid: B
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_forward_norm_kernel(LSTM_FUSED_PARAMS VariantForwardStep<T> arguments) {
  const VariantForwardRows<T> rows(arguments.shape, arguments.params);
  const int64_t b = block_index().x, t = rows.clock.time(arguments.step), width = rows.s.hidden_size;
  if (t < rows.clock.length(b))
    forward_normalised(rows, t, b);
  else
    for_units(width, [&](int64_t n) { clear(rows, t, b, n); });
  for_units(width, [&](int64_t n) { start_next(rows, arguments.step, b, n); });
}

// h~ = W_hr (o tanh(..)), on to h. grid: row tiles of the batch, tiles of columns of h.
template <class A>
LSTM_FUSED_KERNEL(kStepThreads, 1)
lstm_variant_forward_projection_kernel(LSTM_FUSED_PARAMS VariantForwardStep<Element<A>> arguments) {
  using T = Element<A>;
  const VariantForwardRows<T> rows(arguments.shape, arguments.params);
  const LayerShape& s = rows.s;
  const auto& p = rows.p;
  const int64_t step = arguments.step, t = rows.clock.time(step);
  column_product<A>(
      p.w_hr, s.proj_width, s.hidden_size, p.hidden, s.batch,
      [&](int64_t b) -> const T* { return t < rows.clock.length(b) ? p.hidden + b * s.hidden_size : nullptr; },
      [&](int64_t b, int64_t n, T sum) {
        if (t < rows.clock.length(b)) leave_h(rows, t, b, n, sum);
        start_h(rows, step + 1, b, n);
      });
}

// Before the first step, which is step -1 here, what that starts from; behind the last one h_n and c_n. grid: B
template <class T>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_variant_forward_states_kernel(LSTM_FUSED_PARAMS VariantForwardStep<T> arguments) {
  const VariantForwardRows<T> rows(arguments.shape, arguments.params);
  const LayerShape& s = rows.s;
  const auto& p = rows.p;
  const int64_t b = block_index().x, last = rows.clock.last(b);
  const bool is_before = arguments.step < 0, is_empty = rows.clock.length(b) == 0;
  for_units(s.hidden_size, [&](int64_t n) {
    const int64_t at = b * s.hidden_size + n;
    is_before ? start_c(rows, 0, b, n) : void(p.c_n[at] = is_empty ? p.c_0[at] : rows.cells(last, b)[n]);
  });
  for_units(s.proj_width, [&](int64_t n) {
    const int64_t at = b * s.proj_width + n;
    is_before ? start_h(rows, 0, b, n) : void(p.h_n[at] = is_empty ? p.h_0[at] : rows.output(last, b)[n]);
  });
}

}  // namespace lstm_fused
