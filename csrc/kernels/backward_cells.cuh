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
// The same in registers.
template <class T>
using GateWords = Words<sizeof(GateFactors<T>) / sizeof(uint32_t)>;
template <class T>
LSTM_FUSED_DEVICE GateWords<T> round_to_words(const Gates<float>& x) {
  if constexpr (sizeof(T) == 2) {
    return {{round_two<T>(x.i, x.f), round_two<T>(x.g, x.o)}};
  } else {
    return {{float_to_bits(x.i), float_to_bits(x.f), float_to_bits(x.g), float_to_bits(x.o)}};
  }
}

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

  // To a step of these rows, counted from the last one; load() follows.
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
    const T* const some = p.grad_output != nullptr ? p.grad_output : p.gates;  // there, if not to be read
    grad_output = some + at * s.output_stride + first_unit;
  }
  // So many steps on, where all rows of a step have few enough elements for 32 bits.
  LSTM_FUSED_DEVICE void advance_by(int steps) {
    const int by = steps * direction, batch = static_cast<int>(s.batch);
    t += by;
    gates_at += by * (batch * static_cast<int>(kNumGates * s.hidden_size));
    cells += by * static_cast<int>(s.cells_time);
    grad_output += by * (batch * static_cast<int>(s.output_stride));
  }
  // What is to be kept of a cell while the lane takes others: forget() comes before load(), which adds to it what
  // reaches the step from outside, and resume() adds what was kept.
  using Carried = Acc;
  LSTM_FUSED_DEVICE Carried carried(int u, int n) const { return grad_c[u][n]; }
  LSTM_FUSED_DEVICE void forget(int u, int n) { grad_c[u][n] = 0; }
  LSTM_FUSED_DEVICE void resume(int u, int n, Carried kept) { grad_c[u][n] += kept; }
  // Of a row of the batch, to its last step: nothing yet.
  LSTM_FUSED_DEVICE Carried first_carried(int64_t) const { return 0; }
  LSTM_FUSED_DEVICE void begin() const {}

  LSTM_FUSED_DEVICE int unit(int u) const { return first_unit + u * static_cast<int>(kTileUnits); }
  LSTM_FUSED_DEVICE bool is_active(int u, int n) const { return is_active(t, u, n); }

  // Sends for what forward kept of the step at hand.
  LSTM_FUSED_DEVICE void load() {
    load_saved(t, saved, starts);
#pragma unroll
    for (int n = 0; n < kRows; ++n) load_cells(n);
    add_outer();
  }
  // Of the one after it: where load() is called before the first step alone.
  LSTM_FUSED_DEVICE void prefetch() {
    if constexpr (kPrefetch) load_saved(t + direction, coming, coming_starts);
  }

  // recurrent is the gradient of h from the step after. An inactive row keeps what it had. Without branches.
  LSTM_FUSED_DEVICE void step(const Acc (&recurrent)[kUnits][kRows]) {
    using Math = typename MathOf<T>::type;
#pragma unroll
    for (int n = 0; n < kRows; ++n)
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const Saved& cell = saved[u][n];
        const Acc outer = to_accumulator(cell.grad_output) + (kOuterApart ? outer_h[u][n] : 0);
        const Acc grad_h = recurrent[u][n] + outer;
        const Acc c_prev = starts[n] ? Acc{0} : cell.c_before;
        const CellGradient<Acc> grad =
            cell_backward(widen(cell.gates), c_prev, Math::tanh(c[u][n]), grad_h, grad_c[u][n]);
        const GateWords<T> rounded = round_to_words<T>(grad.pre);
#pragma unroll
        for (int i = 0; i < kWords; ++i) kept[u][n].word[i] = is_active(u, n) ? rounded.word[i] : kept[u][n].word[i];
        const Acc flows = starts[n] ? Acc{0} : grad.c_prev;
        grad_c[u][n] = is_active(u, n) ? flows : grad_c[u][n];
      }
  }
  // What flows on to the step before. Of a row that is not yet or no longer there it is what has flowed to it: nothing
  // or, as its gradient waits, that of its first step.
  LSTM_FUSED_DEVICE GateFactors<T> factors(int u, int n) const { return as_factors(kept[u][n], !starts[n]); }
  // And to the layer below, of any.
  LSTM_FUSED_DEVICE GateFactors<T> factors_below(int u, int n) const { return as_factors(kept[u][n], is_active(u, n)); }

  LSTM_FUSED_DEVICE void advance() {
    t += direction;
    gates_at += direction * gates_stride();
    cells += direction * s.cells_time;
    grad_output += direction * s.batch * s.output_stride;
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
    for (int64_t past = length[n]; past < s.seq_len; ++past)
      store_gates_if(true, grad_gates_at(u, n, past - t), s.hidden_size, Gates<T>{});
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
    }
    add_outer();
  }

  struct Saved {
    Gates<T> gates;
    Acc c_before;  // in memory: of the step before, or c_0
    T grad_output;
  };

  static constexpr bool kOuterApart = sizeof(T) < sizeof(Acc);  // else it is added to grad_output, which rounds nothing
  static constexpr int kWords = sizeof(GateWords<T>) / sizeof(uint32_t);
  static LSTM_FUSED_DEVICE GateFactors<T> as_factors(GateWords<T> words, bool flow) {
#pragma unroll
    for (uint32_t& word : words.word) {
      if constexpr (std::is_same_v<A, TF32>) word = round_to_tf32(word);
      word = flow ? word : 0;
    }
    GateFactors<T> factors;
    std::memcpy(&factors, &words, sizeof factors);
    return factors;
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
    bool any_first = false;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const bool is_first = time == first(n);
      any_first |= is_first;
      const T* const gates = p.gates + gates_at + steps * gates_stride() + n * kNumGates * s.hidden_size;
      const T* const output = grad_output + (steps * s.batch + n) * s.output_stride;
      const Acc* const before = cells + (steps + direction) * s.cells_time + n * s.cells_stride;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int at = u * static_cast<int>(kTileUnits);
        const bool active = is_active(time, u, n);
        to[u][n].gates = load_gates_if(active, gates + at, s.hidden_size);
        to[u][n].grad_output = load_global_if(active && p.grad_output != nullptr, output + at);
        to[u][n].c_before = load_global_if(active && !is_first, before + at);
      }
    }
    if (any_first) {
#pragma unroll
      for (int n = 0; n < kRows; ++n)
#pragma unroll
        for (int u = 0; u < kUnits; ++u)
          if (time == first(n) && is_active(time, u, n))
            to[u][n].c_before = to_accumulator(p.c_0[row(n) * s.hidden_size + unit(u)]);
    }
    if (s.segments.reset != nullptr) {
#pragma unroll
      for (int n = 0; n < kRows; ++n)
        to_starts[n] = static_cast<unsigned>(time) < static_cast<unsigned>(length[n]) &&
                       !(p.reverse && time == first(n)) &&
                       s.segments.reset[int64_t{p.reverse ? time + 1 : time} * s.batch + row(n)];
    }
  }
  LSTM_FUSED_DEVICE void load_cells(int n) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      c[u][n] = load_global_if(is_active(u, n), cells + n * s.cells_stride + u * static_cast<int>(kTileUnits));
  }
  // Of the step so many steps of time behind the one at hand.
  LSTM_FUSED_DEVICE void store(int steps) const {
#pragma unroll
    for (int n = 0; n < kRows; ++n)
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        Gates<T> values;
        std::memcpy(&values, &kept[u][n], sizeof values);
        store_gates_if(is_active(t + steps, u, n), grad_gates_at(u, n, steps), s.hidden_size, values);
      }
  }
  // What reaches the step at hand from neither the step after nor `output`. Seldom anything, but at a row's last step.
  LSTM_FUSED_DEVICE void add_outer() {
    bool any_last = false;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      any_last |= t == last(n);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) outer_h[u][n] = 0;
    }
    if (any_last || p.grad_cells != nullptr) {
#pragma unroll
      for (int n = 0; n < kRows; ++n)
#pragma unroll
        for (int u = 0; u < kUnits; ++u) {
          if (!is_active(u, n)) continue;
          if (p.grad_cells != nullptr)
            grad_c[u][n] +=
                to_accumulator(p.grad_cells[(int64_t{t} * s.batch + row(n)) * p.grad_cells_stride + unit(u)]);
          if (t != last(n)) continue;
          const int64_t state = row(n) * s.hidden_size + unit(u);
          c[u][n] = cells[n * s.cells_stride + u * static_cast<int>(kTileUnits)];
          const Acc grad_h = p.grad_h_n != nullptr ? to_accumulator(p.grad_h_n[state]) : 0;
          if constexpr (kOuterApart) outer_h[u][n] = grad_h;
          if constexpr (!kOuterApart) saved[u][n].grad_output += grad_h;
          if (p.grad_c_n != nullptr) grad_c[u][n] += to_accumulator(p.grad_c_n[state]);
        }
    }
  }
  // So many steps of time behind the one at hand.
  LSTM_FUSED_DEVICE T* grad_gates_at(int u, int n, int64_t steps) const {
    return p.grad_gates + gates_at + steps * gates_stride() + n * kNumGates * s.hidden_size +
           u * static_cast<int>(kTileUnits);
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
  Acc outer_h[kUnits][kRows] = {};
  GateWords<T> kept[kUnits][kRows] = {};               // grad_gates
  bool starts[kRows] = {}, coming_starts[kRows] = {};  // whether a segment does
};

}  // namespace lstm_fused
