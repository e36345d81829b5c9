// The cells of one lane of a persistent kernel, backward: what stays in its registers from step to step, and what a
// step does to it. Steps run from the last of the recurrence to its first, and have the parts of forward_cells.cuh.
#pragma once

#include "kernels/cell_math.cuh"
#include "kernels/cluster_primitives.cuh"
#include "kernels/product.cuh"

namespace lstm_fused {

// A cell's grad_gates as the step before multiplies them.
template <class T>
struct alignas(kNumGates * sizeof(T)) GateFactors {
  T at[kNumGates];
};

// kUnits hidden units, kTileUnits apart, of kRows neighbouring rows. kPrefetch: what a step needs is sent for by
// prefetch(), a whole step before, and not by load().
template <class A, int kUnits, int kRows, bool kPrefetch>
class BackwardCells {
 public:
  using T = Element<A>;
  using Acc = Accumulator<T>;

  LSTM_FUSED_DEVICE BackwardCells(const LayerShape& shape, const BackwardParams<T, Acc>& params, int64_t first_unit)
      : s(shape),
        p(params),
        clock{shape, params.reverse},
        first_unit(static_cast<int>(first_unit)),
        direction(params.reverse ? 1 : -1) {}

  // To a step of these rows, counted from the last one; load() follows, and resume() unless they are new.
  LSTM_FUSED_DEVICE void move_to(int64_t row_of_batch, int64_t num_steps, int64_t step) {
    first_row = static_cast<int>(row_of_batch);
#pragma unroll
    for (int n = 0; n < kRows; ++n) length[n] = row(n) < s.batch ? static_cast<int>(clock.length(row(n))) : 0;
    go_to(num_steps, step);
  }
  // To another step of the same rows, in place of advance(): where registers are short, addresses need none in between.
  LSTM_FUSED_DEVICE void go_to(int64_t num_steps, int64_t step) {
    t = static_cast<int>(p.reverse ? step : num_steps - 1 - step);
    const int64_t at = int64_t{t} * s.batch + first_row;
    gates_at = at * kNumGates * s.hidden_size + first_unit;
    cells = p.cells + t * s.cells_time + first_row * s.cells_stride + first_unit;
    if (p.grad_output != nullptr) grad_output = p.grad_output + at * s.output_stride + first_unit;
  }
  // So many steps on, where all rows of a step have few enough elements for 32 bits.
  LSTM_FUSED_DEVICE void advance_by(int steps) {
    const int by = steps * direction, batch = static_cast<int>(s.batch);
    t += by;
    gates_at += by * (batch * static_cast<int>(kNumGates * s.hidden_size));
    cells += by * static_cast<int>(s.cells_time);
    if (p.grad_output != nullptr) grad_output += by * (batch * static_cast<int>(s.output_stride));
  }
  // What is to be kept of a cell while the lane takes others.
  LSTM_FUSED_DEVICE Acc carried(int u, int n) const { return grad_c[u][n]; }
  LSTM_FUSED_DEVICE void resume(int u, int n, Acc kept) { grad_c[u][n] = kept; }

  LSTM_FUSED_DEVICE int unit(int u) const { return first_unit + u * static_cast<int>(kTileUnits); }
  LSTM_FUSED_DEVICE bool is_active(int u, int n) const { return is_active(t, u, n); }

  // Sends for what forward kept of the step at hand.
  LSTM_FUSED_DEVICE void load() {
    load_saved(t, saved, starts);
#pragma unroll
    for (int n = 0; n < kRows; ++n) load_cells(n);
  }
  // Of the one after it: where load() is called before the first step alone.
  LSTM_FUSED_DEVICE void prefetch() {
    if constexpr (kPrefetch) load_saved(t + direction, coming, coming_starts);
  }

  // recurrent is the gradient of h from the step after. Without branches but those of a row's last step.
  LSTM_FUSED_DEVICE void step(const Acc (&recurrent)[kUnits][kRows]) {
    using Math = typename MathOf<T>::type;
    Acc grad_h[kUnits][kRows], total_c[kUnits][kRows];
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        grad_h[u][n] = recurrent[u][n] + to_accumulator(saved[u][n].grad_output);
        total_c[u][n] = grad_c[u][n];
        if (p.grad_cells != nullptr && is_active(u, n))  // seldom, so not kept in registers
          total_c[u][n] +=
              to_accumulator(p.grad_cells[(int64_t{t} * s.batch + row(n)) * p.grad_cells_stride + unit(u)]);
      }
      if (t != last(n) || length[n] == 0) continue;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int64_t state = row(n) * s.hidden_size + unit(u);
        if (!has_unit(u)) continue;
        if (p.grad_h_n != nullptr) grad_h[u][n] += to_accumulator(p.grad_h_n[state]);
        if (p.grad_c_n != nullptr) total_c[u][n] += to_accumulator(p.grad_c_n[state]);
      }
    }
#pragma unroll
    for (int n = 0; n < kRows; ++n)
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const Saved& cell = saved[u][n];
        const Acc c_prev = starts[n] ? Acc{0} : cell.c_before;
        const CellGradient<Acc> grad =
            cell_backward<Math>(widen(cell.gates), c_prev, c[u][n], grad_h[u][n], total_c[u][n]);
        kept[u][n] = round_gates<T>(grad.pre);
        if (is_active(u, n)) grad_c[u][n] = starts[n] ? Acc{0} : grad.c_prev;
      }
  }
  // What flows on to the step before, of an active cell. It is rounded in any case: a branch around that is dearer.
  LSTM_FUSED_DEVICE GateFactors<T> factors(int u, int n) const {
    const GateFactors<T> all = as_factors(kept[u][n]);
    return starts[n] ? GateFactors<T>{} : all;
  }
  // And to the layer below, of any.
  LSTM_FUSED_DEVICE GateFactors<T> factors_below(int u, int n) const {
    return is_active(u, n) ? as_factors(kept[u][n]) : GateFactors<T>{};
  }

  LSTM_FUSED_DEVICE void advance() {
    t += direction;
    gates_at += direction * gates_stride();
    cells += direction * s.cells_time;
    if (p.grad_output != nullptr) grad_output += direction * s.batch * s.output_stride;
    if constexpr (kPrefetch) turn();
  }
  // Of the step before the one at hand, as it was computed.
  LSTM_FUSED_DEVICE void store() const { store(-direction); }
  // Of the step at hand, where there is no advance().
  LSTM_FUSED_DEVICE void store_present() const { store(0); }
  // After the first step, what is left flows to h_0 and c_0. grad_gates of steps that are not active become zero.
  LSTM_FUSED_DEVICE void finish(int u, int n, Acc recurrent) const {
    if (!has_unit(u) || row(n) >= s.batch) return;
    const int64_t state = row(n) * s.hidden_size + unit(u);
    const bool empty = length[n] == 0;
    p.grad_h_0[state] = !empty ? round_to<T>(recurrent) : p.grad_h_n != nullptr ? p.grad_h_n[state] : T{};
    p.grad_c_0[state] = !empty ? round_to<T>(grad_c[u][n]) : p.grad_c_n != nullptr ? p.grad_c_n[state] : T{};
    for (int64_t past = length[n]; past < s.seq_len; ++past) put(u, n, static_cast<int>(past - t), Gates<T>{});
  }

 private:
  // To what was sent for.
  LSTM_FUSED_DEVICE void turn() {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        c[u][n] = saved[u][n].c_before;
        saved[u][n] = coming[u][n];
      }
      starts[n] = coming_starts[n];
      if (t == last(n)) load_cells(n);
    }
  }

  struct Saved {
    Gates<T> gates;
    Acc c_before;  // in memory: of the step before, or c_0
    T grad_output;
  };

  static LSTM_FUSED_DEVICE GateFactors<T> as_factors(const Gates<T>& x) {
    return {{as_factor<A>(x.i), as_factor<A>(x.f), as_factor<A>(x.g), as_factor<A>(x.o)}};
  }
  LSTM_FUSED_DEVICE int64_t row(int n) const { return first_row + n; }
  LSTM_FUSED_DEVICE bool has_unit(int u) const { return unit(u) < s.hidden_size; }
  LSTM_FUSED_DEVICE bool is_active(int time, int u, int n) const {
    return has_unit(u) && static_cast<unsigned>(time) < static_cast<unsigned>(length[n]);
  }
  LSTM_FUSED_DEVICE int last(int n) const { return p.reverse ? 0 : length[n] - 1; }
  LSTM_FUSED_DEVICE int first(int n) const { return p.reverse ? length[n] - 1 : 0; }
  LSTM_FUSED_DEVICE int64_t gates_stride() const { return s.batch * kNumGates * s.hidden_size; }

  LSTM_FUSED_DEVICE void load_saved(int time, Saved (&to)[kUnits][kRows], bool (&to_starts)[kRows]) const {
    const int64_t steps = time - t;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const bool is_first = time == first(n);
      to_starts[n] = s.segments.reset != nullptr && static_cast<unsigned>(time) < static_cast<unsigned>(length[n]) &&
                     !(p.reverse && is_first) &&
                     s.segments.reset[int64_t{p.reverse ? time + 1 : time} * s.batch + row(n)];
      const T* const gates = p.gates + gates_at + steps * gates_stride() + n * kNumGates * s.hidden_size;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        if (!is_active(time, u, n)) continue;
        const int at = u * static_cast<int>(kTileUnits);
        to[u][n].gates = load_gates(gates + at, s.hidden_size);
        if (p.grad_output != nullptr) to[u][n].grad_output = grad_output[(steps * s.batch + n) * s.output_stride + at];
        to[u][n].c_before = is_first ? to_accumulator(p.c_0[row(n) * s.hidden_size + unit(u)])
                                     : cells[(steps + direction) * s.cells_time + n * s.cells_stride + at];
      }
    }
  }
  LSTM_FUSED_DEVICE void load_cells(int n) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      if (is_active(u, n)) c[u][n] = cells[n * s.cells_stride + u * static_cast<int>(kTileUnits)];
  }
  LSTM_FUSED_DEVICE void store(int steps) const {
#pragma unroll
    for (int n = 0; n < kRows; ++n)
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        if (is_active(t + steps, u, n)) put(u, n, steps, kept[u][n]);
  }
  // To grad_gates, so many steps of time behind the one at hand.
  LSTM_FUSED_DEVICE void put(int u, int n, int steps, const Gates<T>& values) const {
    T* const at = p.grad_gates + gates_at + steps * gates_stride() + n * kNumGates * s.hidden_size +
                  u * static_cast<int>(kTileUnits);
    store_global(at, values.i);
    store_global(at + s.hidden_size, values.f);
    store_global(at + 2 * s.hidden_size, values.g);
    store_global(at + 3 * s.hidden_size, values.o);
  }

  const LayerShape& s;
  const BackwardParams<T, Acc>& p;
  const Clock clock;
  const int first_unit, direction;
  int first_row = 0, t = 0;
  int64_t gates_at = 0;  // where those of the first row and unit lie, at time t
  const Acc* cells = nullptr;
  const T* grad_output = nullptr;
  int length[kRows];
  Saved saved[kUnits][kRows] = {}, coming[kUnits][kRows] = {};
  Acc c[kUnits][kRows] = {};
  Acc grad_c[kUnits][kRows] = {};  // what flows to the step before
  Gates<T> kept[kUnits][kRows] = {};
  bool starts[kRows] = {}, coming_starts[kRows] = {};  // whether a segment does
};

}  // namespace lstm_fused
