// The cells of one lane of a persistent kernel, forward, of a variant of the plain cell without norms and projection
// (variant_cell.h): a step has the parts of forward_cells.cuh.
#pragma once

#include "kernels/product.cuh"
#include "kernels/variant_rows.cuh"

namespace lstm_fused {

// One hidden unit of kRows neighbouring rows of the batch. A unit or row that does not exist has no steps.
template <class A, int kRows, bool kTraining>
class VariantForwardCells {
 public:
  using T = Element<A>;

  LSTM_FUSED_DEVICE VariantForwardCells(const LayerShape& shape, const VariantForwardParams<T>& params, int64_t unit)
      : s(shape),
        p(params),
        clock{shape, params.reverse},
        unit(static_cast<int>(unit)),
        direction(params.reverse ? -1 : 1) {
#pragma unroll
    for (T& mask : recurrent_mask) mask = 1;
    if (unit >= s.hidden_size) return;
    bias = bias_of(p.b_ih, p.b_hh, unit, s.hidden_size);
    extras = extras_at(p.cell, s.hidden_size, unit);
  }

  // To a step of these rows, of which nothing is known yet: begin(), or resume() and load() follow.
  LSTM_FUSED_DEVICE void move_to(int64_t row_of_batch, int64_t num_steps, int64_t step) {
    first_row = static_cast<int>(row_of_batch);
#pragma unroll
    for (int n = 0; n < kRows; ++n) length[n] = exists(n) ? static_cast<int>(clock.length(row(n))) : 0;
    t = static_cast<int>(p.reverse ? num_steps - 1 - step : step);
  }
  LSTM_FUSED_DEVICE void turn_to(int64_t row_of_batch, int64_t num_steps, int64_t step) {
    move_to(row_of_batch, num_steps, step);
  }
  LSTM_FUSED_DEVICE void advance_by(int steps) { t += steps * direction; }
  LSTM_FUSED_DEVICE void load_present(bool has_input) { load(has_input); }
  LSTM_FUSED_DEVICE void store_present() const { store_at(t); }

  // What is to be kept of row n while the lane takes others.
  struct alignas(8) Carried {
    T c, h;
  };
  LSTM_FUSED_DEVICE Carried carried(int n) const { return {c[n], h[n]}; }
  LSTM_FUSED_DEVICE void resume(int n, const Carried& kept) {
    c[n] = kept.c;
    h[n] = kept.h;
  }

  // What the product of a first step takes for element `at` of h_0, (B, H).
  static LSTM_FUSED_DEVICE T first_factor(const VariantForwardParams<T>& p, int64_t at) {
    return as_factor<A>(p.cell.recurrent_mask == nullptr ? p.h_0[at] : p.cell.recurrent_mask[at] * p.h_0[at]);
  }
  LSTM_FUSED_DEVICE void begin(bool has_input = true) {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const bool loads = exists(n) && !segment_starts(t, n);
      h[n] = loads ? p.h_0[state_at(n)] : T{0};
      c[n] = loads ? p.c_0[state_at(n)] : T{0};
    }
    load(has_input);
  }
  LSTM_FUSED_DEVICE void load(bool = true) {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const bool active = is_active(t, n);
      input[n] = load_gates_if(active, p.kept.input_sums + gates_at(t, n), s.hidden_size);
      keeps_h[n] = active ? zoneout_of_step(p.cell.zoneout_h, n) : T{0};
      keeps_c[n] = active ? zoneout_of_step(p.cell.zoneout_c, n) : T{0};
      if (p.cell.recurrent_mask != nullptr && exists(n)) recurrent_mask[n] = p.cell.recurrent_mask[state_at(n)];
      starts[n] = segment_starts(t + direction, n);
    }
  }
  LSTM_FUSED_DEVICE void prefetch() const {}

  // recurrent is W_hh (m h). An inactive row keeps what it had.
  LSTM_FUSED_DEVICE void step(const Gates<T> (&recurrent)[kRows]) {
    using Math = VariantMath<T>;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const CellStep<T> next = variant_cell<Math>(add(add(input[n], recurrent[n]), bias), c[n], extras);
      const T hidden = next_hidden<Math>(next.gates, next.c);
      if constexpr (kTraining) kept[n] = {next.gates, next.raw, c[n], masked_h(n)};
      const VariantCell<T>& cell = p.cell;
      const bool active = is_active(t, n);
      const T next_c = zoned_out_by(cell.zoneout_c != nullptr, keeps_c[n], cell.keeps_c, c[n], next.c);
      const T next_h = zoned_out_by(cell.zoneout_h != nullptr, keeps_h[n], cell.keeps_h, h[n], hidden);
      kept_c[n] = active ? next_c : c[n];
      kept_h[n] = active ? next_h : h[n];
      c[n] = starts[n] ? T{0} : kept_c[n];
      h[n] = starts[n] ? T{0} : kept_h[n];
    }
  }
  // h after the step, even where the next one starts a segment.
  LSTM_FUSED_DEVICE T hidden(int n) const { return kept_h[n]; }
  // m h, as the next step multiplies it.
  LSTM_FUSED_DEVICE T factor(int n) const { return as_factor<A>(masked_h(n)); }

  LSTM_FUSED_DEVICE void advance() { t += direction; }
  // Of the step before the one at hand, if there is one.
  LSTM_FUSED_DEVICE void store() const { store_at(t - direction); }

  // After the last step.
  LSTM_FUSED_DEVICE void finish() const {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if (!exists(n)) continue;
      p.h_n[state_at(n)] = h[n];
      p.c_n[state_at(n)] = c[n];
      for (int past = length[n]; past < s.seq_len; ++past) store_row(past, n, T{0}, T{0}, Kept{});  // the row's end
    }
  }

 private:
  // What backward needs of a step.
  struct Kept {
    Gates<T> gates;
    T raw, c_prev, factor;
  };
  LSTM_FUSED_DEVICE int64_t row(int n) const { return first_row + n; }
  LSTM_FUSED_DEVICE bool exists(int n) const { return row(n) < s.batch && unit < s.hidden_size; }
  // Where elements lie: of a (B, H), a (T, B, H) and a (T, B, 4H) tensor.
  LSTM_FUSED_DEVICE int64_t state_at(int n) const { return row(n) * s.hidden_size + unit; }
  LSTM_FUSED_DEVICE int64_t step_at(int time, int n) const { return (time * s.batch + row(n)) * s.hidden_size + unit; }
  LSTM_FUSED_DEVICE int64_t gates_at(int time, int n) const {
    return (time * s.batch + row(n)) * kNumGates * s.hidden_size + unit;
  }
  LSTM_FUSED_DEVICE bool is_active(int time, int n) const {
    return static_cast<unsigned>(time) < static_cast<unsigned>(length[n]);
  }
  LSTM_FUSED_DEVICE bool segment_starts(int time, int n) const {
    return is_active(time, n) && clock.before(time, row(n)) == Before::kNothing;
  }
  LSTM_FUSED_DEVICE T zoneout_of_step(const T* masks, int n) const {
    return masks == nullptr ? T{0} : masks[step_at(t, n)];
  }
  LSTM_FUSED_DEVICE T masked_h(int n) const { return recurrent_mask[n] * h[n]; }
  LSTM_FUSED_DEVICE void store_at(int time) const {
#pragma unroll
    for (int n = 0; n < kRows; ++n)
      if (is_active(time, n)) store_row(time, n, kept_h[n], kept_c[n], kept[n]);
  }
  LSTM_FUSED_DEVICE void store_row(int time, int n, T hidden, T cell, const Kept& of_step) const {
    const int64_t at = step_at(time, n);
    p.output[at] = hidden;
    p.cells[at] = cell;
    if constexpr (kTraining) {
      store_gates(p.kept.gates + gates_at(time, n), s.hidden_size, of_step.gates);
      p.kept.raw[at] = of_step.raw;
      p.kept.c_prev[at] = of_step.c_prev;
      p.kept.factor[at] = of_step.factor;
    }
  }

  const LayerShape& s;
  const VariantForwardParams<T>& p;
  const Clock clock;
  const int unit, direction;
  int first_row = 0, t = 0, length[kRows] = {};
  Gates<T> bias = {}, input[kRows] = {};
  CellExtras<T> extras = {};
  T h[kRows] = {}, c[kRows] = {};            // before the coming step
  T kept_h[kRows] = {}, kept_c[kRows] = {};  // after the last one
  T keeps_h[kRows] = {}, keeps_c[kRows] = {}, recurrent_mask[kRows];
  Kept kept[kRows] = {};
  bool starts[kRows] = {};  // whether a segment does at the step behind the one at hand
};

}  // namespace lstm_fused
