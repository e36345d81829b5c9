// The cells of one lane of a persistent kernel, backward, of a variant of the plain cell without norms and projection:
// a step has the parts of backward_cells.cuh.
#pragma once

#include "kernels/backward_cells.cuh"
#include "kernels/variant_rows.cuh"

namespace lstm_fused {

// kUnits hidden units, kTileUnits apart, of kRows neighbouring rows. The gradients of the last h and c are in grad_h_0
// and grad_c_0, and every row takes them with it from there.
template <class A, int kUnits, int kRows>
class VariantBackwardCells {
 public:
  using T = Element<A>;

  LSTM_FUSED_DEVICE VariantBackwardCells(const LayerShape& shape, const VariantBackwardParams<T>& params,
                                         int64_t first_unit)
      : s(shape),
        p(params),
        clock{shape, params.reverse},
        first_unit(static_cast<int>(first_unit)),
        direction(params.reverse ? 1 : -1) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      if (unit(u) < s.hidden_size) extras[u] = extras_at(p.cell, s.hidden_size, unit(u));
  }

  // To a step of these rows, counted from the last one; begin(), or resume(), and load() follow.
  LSTM_FUSED_DEVICE void move_to(int64_t row_of_batch, int64_t num_steps, int64_t step) {
    first_row = static_cast<int>(row_of_batch);
#pragma unroll
    for (int n = 0; n < kRows; ++n) length[n] = row(n) < s.batch ? static_cast<int>(clock.length(row(n))) : 0;
    go_to(num_steps, step);
  }
  LSTM_FUSED_DEVICE void go_to(int64_t num_steps, int64_t step) {
    t = static_cast<int>(p.reverse ? step : num_steps - 1 - step);
  }
  LSTM_FUSED_DEVICE void advance_by(int steps) { t += steps * direction; }

  // What flows to a step through h and c, but for the product with W_hh.
  struct alignas(8) Carried {
    T h, c;
  };
  LSTM_FUSED_DEVICE Carried carried(int u, int n) const { return flows[u][n]; }
  LSTM_FUSED_DEVICE void forget(int, int) const {}
  LSTM_FUSED_DEVICE void resume(int u, int n, const Carried& kept) { flows[u][n] = kept; }
  // To the last step.
  LSTM_FUSED_DEVICE Carried first_carried(int64_t row_of_batch) const { return first_carried(0, row_of_batch); }
  LSTM_FUSED_DEVICE void begin() {
#pragma unroll
    for (int n = 0; n < kRows; ++n)
#pragma unroll
      for (int u = 0; u < kUnits; ++u) flows[u][n] = first_carried(u, row(n));
  }

  LSTM_FUSED_DEVICE int unit(int u) const { return first_unit + u * static_cast<int>(kTileUnits); }
  LSTM_FUSED_DEVICE bool is_active(int u, int n) const { return is_active(t, u, n); }

  // Sends for what forward kept of the step at hand.
  LSTM_FUSED_DEVICE void load() {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      starts[n] = is_active(t, 0, n) && clock.before(t, row(n)) == Before::kNothing;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        Saved& to = saved[u][n];
        const bool active = is_active(u, n);
        const int64_t at = step_at(t, u, n), gates = gates_at(t, u, n);
        to.gates = load_gates_if(active, p.kept.gates + gates, s.hidden_size);
        to.c_prev = load_global_if(active, p.kept.c_prev + at);
        to.raw = load_global_if(active, p.kept.raw + at);
        to.grad_h = value_at(active, p.grad_output, at);
        to.grad_c = value_at(active, p.grad_cells, at);
        to.keeps_h = value_at(active, p.cell.zoneout_h, at);
        to.keeps_c = value_at(active, p.cell.zoneout_c, at);
        to.recurrent_mask = recurrent_mask(active, u, n);
      }
    }
  }
  LSTM_FUSED_DEVICE void prefetch() const {}

  // recurrent is what comes through W_hh from the step after. An inactive row keeps what it had.
  LSTM_FUSED_DEVICE void step(const T (&recurrent)[kUnits][kRows]) {
    using Math = VariantMath<T>;
#pragma unroll
    for (int n = 0; n < kRows; ++n)
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        if (!is_active(u, n)) continue;
        const Saved& of = saved[u][n];
        const ZoneoutGradient<T> grad_h =
            zoneout_backward_by(p.cell.zoneout_h != nullptr, of.keeps_h, p.cell.keeps_h,
                                of.grad_h + (flows[u][n].h + of.recurrent_mask * recurrent[u][n]));
        const ZoneoutGradient<T> grad_c =
            zoneout_backward_by(p.cell.zoneout_c != nullptr, of.keeps_c, p.cell.keeps_c, of.grad_c + flows[u][n].c);
        const HiddenGradient<T> of_hidden =
            hidden_backward(of.gates.o, Math::tanh(extras[u].template clipped<Math>(of.raw)), grad_h.after);
        const CellGradient<T> grad = variant_cell_backward<Math>(of.gates, of.c_prev, of.raw, of_hidden.pre_o,
                                                                 grad_c.after + of_hidden.inner, extras[u]);
        kept[u][n] = grad.pre;
        flows[u][n] = starts[n] ? Carried{0, 0} : Carried{grad_h.before, grad_c.before + grad.c_prev};
      }
  }
  // What the step before multiplies, as in backward_cells.cuh.
  LSTM_FUSED_DEVICE GateFactors<T> factors(int u, int n) const {
    const auto factor = [&](T x) { return starts[n] ? T{0} : as_factor<A>(x); };
    return {{factor(kept[u][n].i), factor(kept[u][n].f), factor(kept[u][n].g), factor(kept[u][n].o)}};
  }
  LSTM_FUSED_DEVICE GateFactors<T> factors_below(int u, int n) const { return factors(u, n); }

  LSTM_FUSED_DEVICE void advance() { t += direction; }
  // Of the step before the one at hand, as it was computed; and of the step at hand.
  LSTM_FUSED_DEVICE void store() const { store_at(t - direction); }
  LSTM_FUSED_DEVICE void store_present() const { store_at(t); }
  // After the first step, what is left flows to h_0 and c_0.
  LSTM_FUSED_DEVICE void finish(int u, int n, T recurrent) const {
    if (unit(u) >= s.hidden_size || row(n) >= s.batch) return;
    p.grad_h_0[state_at(u, row(n))] = flows[u][n].h + recurrent_mask(true, u, n) * recurrent;
    p.grad_c_0[state_at(u, row(n))] = flows[u][n].c;
    for (int past = length[n]; past < s.seq_len; ++past)
      store_gates(p.grad_sums + gates_at(past, u, n), s.hidden_size, Gates<T>{});
  }

 private:
  struct Saved {
    Gates<T> gates;
    T c_prev, raw, grad_h, grad_c, keeps_h, keeps_c, recurrent_mask;
  };
  LSTM_FUSED_DEVICE int64_t row(int n) const { return first_row + n; }
  LSTM_FUSED_DEVICE bool is_active(int time, int u, int n) const {
    return unit(u) < s.hidden_size && static_cast<unsigned>(time) < static_cast<unsigned>(length[n]);
  }
  // Where elements lie: of a (B, H), a (T, B, H) and a (T, B, 4H) tensor.
  LSTM_FUSED_DEVICE int64_t state_at(int u, int64_t b) const { return b * s.hidden_size + unit(u); }
  LSTM_FUSED_DEVICE int64_t step_at(int time, int u, int n) const {
    return (time * s.batch + row(n)) * s.hidden_size + unit(u);
  }
  LSTM_FUSED_DEVICE int64_t gates_at(int time, int u, int n) const {
    return (time * s.batch + row(n)) * kNumGates * s.hidden_size + unit(u);
  }
  static LSTM_FUSED_DEVICE T value_at(bool wanted, const T* values, int64_t at) {
    return wanted && values != nullptr ? values[at] : T{0};
  }
  LSTM_FUSED_DEVICE Carried first_carried(int u, int64_t b) const {
    if (unit(u) >= s.hidden_size || b >= s.batch) return {0, 0};
    return {p.grad_h_0[state_at(u, b)], p.grad_c_0[state_at(u, b)]};
  }
  LSTM_FUSED_DEVICE T recurrent_mask(bool wanted, int u, int n) const {
    const T* const mask = p.cell.recurrent_mask;
    return wanted && mask != nullptr ? mask[state_at(u, row(n))] : T{1};
  }
  LSTM_FUSED_DEVICE void store_at(int time) const {
#pragma unroll
    for (int n = 0; n < kRows; ++n)
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        if (is_active(time, u, n)) store_gates(p.grad_sums + gates_at(time, u, n), s.hidden_size, kept[u][n]);
  }

  const LayerShape& s;
  const VariantBackwardParams<T>& p;
  const Clock clock;
  const int first_unit, direction;
  int first_row = 0, t = 0, length[kRows] = {};
  CellExtras<T> extras[kUnits] = {};
  Saved saved[kUnits][kRows] = {};
  Carried flows[kUnits][kRows] = {};
  Gates<T> kept[kUnits][kRows] = {};  // the gradients of the gates' sums
  bool starts[kRows] = {};            // whether a segment does at the step at hand
};

}  // namespace lstm_fused
