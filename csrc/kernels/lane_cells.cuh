// The cells of one lane of a persistent kernel: what stays in its registers from step to step, and what a step does to
// it. Which lanes, and how h and grad_gates travel between them, is the kernel's own matter.
#pragma once

#include "kernels/cell_math.cuh"
#include "kernels/cluster_primitives.cuh"
#include "kernels/product.cuh"

namespace lstm_fused {

// When a step's x W_ih^T is loaded: never, as the kernel multiplies x itself; a step ahead, which hides all of the way
// from memory; or when the step begins, which takes fewer registers and leaves the time of the product to hide it.
enum class Input { kNone, kAhead, kAtOnce };

// One hidden unit of kRows neighbouring rows of the batch. A unit or row that does not exist has no steps.
template <class A, int kRows, bool kTraining, Input kInput>
class ForwardCells {
 public:
  using T = Element<A>;
  using Acc = Accumulator<T>;

  LSTM_FUSED_DEVICE ForwardCells(const LayerShape& shape, const ForwardParams<T, Acc>& params, int64_t first_row,
                                 int64_t unit)
      : s(shape), p(params), clock{shape, params.reverse}, unit(static_cast<int>(unit)) {
    if (unit < s.hidden_size) bias = bias_of(p.b_ih, p.b_hh, unit, s.hidden_size);
    move_to(first_row);
  }

  // Goes on with other rows, of which nothing is known yet: begin() or resume() follows.
  LSTM_FUSED_DEVICE void move_to(int64_t row_of_batch) {
    first_row = static_cast<int>(row_of_batch);
#pragma unroll
    for (int n = 0; n < kRows; ++n) length[n] = exists(n) ? static_cast<int>(clock.length(row(n))) : 0;
  }
  // What is to be kept of row n while the lane takes others.
  struct alignas(8) Carried {
    Acc c;
    T h;
  };
  LSTM_FUSED_DEVICE Carried carried(int n) const { return {c[n], h[n]}; }
  LSTM_FUSED_DEVICE void resume(int n, const Carried& kept) {
    c[n] = kept.c;
    h[n] = kept.h;
  }

  // Sends for what the coming step t needs: whether a segment starts there, and x W_ih^T.
  LSTM_FUSED_DEVICE void fetch(int64_t t) {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if constexpr (kInput == Input::kAhead) coming[n] = load_input(t, n);
      starts[n] = t < length[n] && clock.before(t, row(n)) == Before::kNothing;
    }
  }

  // Before the first step, which was fetched if there is one.
  LSTM_FUSED_DEVICE void begin() {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const bool loads = exists(n) && !starts[n];
      h[n] = loads ? p.h_0[row(n) * s.hidden_size + unit] : T{};
      c[n] = loads ? to_accumulator(p.c_0[row(n) * s.hidden_size + unit]) : 0;
    }
    turn();
  }

  // What was fetched is now needed; nothing comes after it until fetch() is called again.
  LSTM_FUSED_DEVICE void turn() {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if constexpr (kInput == Input::kAhead) input[n] = coming[n];
      starts[n] = false;
    }
  }

  // When step t begins, which has become the one at hand.
  LSTM_FUSED_DEVICE void prepare(int64_t t) {
    if constexpr (kInput != Input::kAtOnce) return;
#pragma unroll
    for (int n = 0; n < kRows; ++n) input[n] = load_input(t, n);
  }

  // Step t of row n; recurrent is h W_hh^T (and x W_ih^T, if multiplied here). Returns h after it, even where the next
  // step starts a segment; an inactive row keeps what it had.
  LSTM_FUSED_DEVICE T step(int64_t t, int n, const Gates<Acc>& recurrent) {
    if (t < length[n]) {
      // The bias last: it may be large, and no term should be rounded to its size.
      const Gates<Acc> pre = add(add(widen(input[n]), recurrent), bias);
      h[n] = round_to<T>(forward_at<kTraining>(s, p, t, row(n), unit, pre, c[n]));
      output_at(s, p, t, row(n))[unit] = h[n];
      if (s.cells_time != 0) cells_at(s, p, t, row(n))[unit] = c[n];
    }
    const T result = h[n];
    if (starts[n]) {
      h[n] = T{};
      c[n] = 0;
    }
    return result;
  }

  // h as the next step multiplies it.
  LSTM_FUSED_DEVICE T factor(int n) const { return as_factor<A>(h[n]); }

  // After the last step.
  LSTM_FUSED_DEVICE void finish() const {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if (!exists(n)) continue;
      p.h_n[row(n) * s.hidden_size + unit] = h[n];
      p.c_n[row(n) * s.hidden_size + unit] = round_to<T>(c[n]);
      for (int64_t t = length[n]; t < s.seq_len; ++t) {  // past the row's end
        output_at(s, p, t, row(n))[unit] = T{};
        if (s.cells_time != 0) cells_at(s, p, t, row(n))[unit] = 0;
      }
    }
  }

 private:
  LSTM_FUSED_DEVICE Gates<T> load_input(int64_t t, int n) const {
    return t < length[n] ? load_gates(gates_at(s, p, t, row(n)) + unit, s.hidden_size) : Gates<T>{};
  }
  LSTM_FUSED_DEVICE int64_t row(int n) const { return first_row + n; }
  LSTM_FUSED_DEVICE bool exists(int n) const { return row(n) < s.batch && unit < s.hidden_size; }

  const LayerShape& s;
  const ForwardParams<T, Acc>& p;
  const Clock clock;
  const int unit;
  int first_row;
  Gates<Acc> bias = {};
  int length[kRows];
  T h[kRows];
  Acc c[kRows];
  Gates<T> input[kRows] = {}, coming[kRows] = {};
  bool starts[kRows] = {};  // at the step that was fetched
};

// A cell's grad_gates as the step before multiplies them.
template <class T>
struct alignas(kNumGates * sizeof(T)) GateFactors {
  T at[kNumGates];
};

// kUnits hidden units, kTileUnits apart, of kRows neighbouring rows.
template <class A, int kUnits, int kRows>
class BackwardCells {
 public:
  using T = Element<A>;
  using Acc = Accumulator<T>;

  LSTM_FUSED_DEVICE BackwardCells(const LayerShape& shape, const BackwardParams<T, Acc>& params, int64_t first_row,
                                  int64_t first_unit)
      : s(shape), p(params), clock{shape, params.reverse}, first_unit(static_cast<int>(first_unit)) {
    move_to(first_row);
  }

  // Goes on with other rows; resume() follows, unless they are new.
  LSTM_FUSED_DEVICE void move_to(int64_t first_row) {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      row[n] = static_cast<int>(first_row) + n;
      length[n] = row[n] < s.batch ? static_cast<int>(clock.length(row[n])) : 0;
    }
  }
  // What is to be kept of a cell while the lane takes others.
  LSTM_FUSED_DEVICE Acc carried(int u, int n) const { return grad_c[u][n]; }
  LSTM_FUSED_DEVICE void resume(int u, int n, Acc kept) { grad_c[u][n] = kept; }

  LSTM_FUSED_DEVICE int unit(int u) const { return first_unit + u * static_cast<int>(kTileUnits); }
  LSTM_FUSED_DEVICE bool has_unit(int u) const { return unit(u) < s.hidden_size; }
  LSTM_FUSED_DEVICE bool active(int64_t t, int n) const { return t < length[n]; }

  // Sends for what forward kept of step t.
  LSTM_FUSED_DEVICE void fetch(int64_t t) {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if (!active(t, n)) continue;
      before[n] = clock.before(t, row[n]);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        if (!has_unit(u)) continue;
        saved[u][n] = load_saved(s, p, clock, t, row[n], unit(u), before[n]);
        grad_output[u][n] =
            p.grad_output == nullptr ? T{} : p.grad_output[(t * s.batch + row[n]) * s.output_stride + unit(u)];
      }
    }
  }

  // An active step, fetched before; recurrent is the gradient of h from the step after. Returns what flows on.
  LSTM_FUSED_DEVICE GateFactors<T> step(int64_t t, int u, int n, Acc recurrent) {
    using Math = typename MathOf<T>::type;
    const SavedCell<T>& cell = saved[u][n];
    const Acc grad_h = recurrent + to_accumulator(grad_output[u][n]) + last_grad_h(s, p, clock, t, row[n], unit(u));
    const Acc total_c = grad_c[u][n] + outer_grad_c(s, p, clock, t, row[n], unit(u));
    const CellGradient<Acc> grad = cell_backward<Math>(widen(cell.gates), cell.c_prev, cell.c, grad_h, total_c);
    const Gates<T> rounded = round_gates<T>(grad.pre);
    store_grad_gates(t, u, n, rounded);
    const bool flows = before[n] != Before::kNothing;
    grad_c[u][n] = flows ? grad.c_prev : 0;
    if (!flows) return {};
    return {{as_factor<A>(rounded.i), as_factor<A>(rounded.f), as_factor<A>(rounded.g), as_factor<A>(rounded.o)}};
  }

  // A step that is not active.
  LSTM_FUSED_DEVICE void skip(int64_t t, int u, int n) const {
    if (has_unit(u) && row[n] < s.batch) store_grad_gates(t, u, n, Gates<T>{});
  }

  // After the first step, what is left flows to h_0 and c_0. The h that each step started from is copied here, where
  // nobody waits for it, and grad_gates of steps that are not active become zero, but for `skipped` first ones.
  LSTM_FUSED_DEVICE void finish(int u, int n, Acc recurrent, int64_t skipped = 0) const {
    if (!has_unit(u) || row[n] >= s.batch) return;
    const int64_t state = row[n] * s.hidden_size + unit(u);
    const bool empty = length[n] == 0;
    p.grad_h_0[state] = !empty ? round_to<T>(recurrent) : p.grad_h_n != nullptr ? p.grad_h_n[state] : T{};
    p.grad_c_0[state] = !empty ? round_to<T>(grad_c[u][n]) : p.grad_c_n != nullptr ? p.grad_c_n[state] : T{};
    for (int64_t t = 0; t < s.seq_len; ++t) {
      const int64_t at = t * s.batch + row[n];
      const bool past = t >= length[n];
      p.h_prev[at * s.hidden_size + unit(u)] =
          past ? T{} : h_before(s, p, clock, t, row[n], unit(u), clock.before(t, row[n]));
      if (past && t >= skipped) store_grad_gates(t, u, n, Gates<T>{});
    }
  }

 private:
  LSTM_FUSED_DEVICE void store_grad_gates(int64_t t, int u, int n, const Gates<T>& values) const {
    T* const at = p.grad_gates + (t * s.batch + row[n]) * kNumGates * s.hidden_size + unit(u);
    store_global(at, values.i);
    store_global(at + s.hidden_size, values.f);
    store_global(at + 2 * s.hidden_size, values.g);
    store_global(at + 3 * s.hidden_size, values.o);
  }

  const LayerShape& s;
  const BackwardParams<T, Acc>& p;
  const Clock clock;
  const int first_unit;
  int row[kRows], length[kRows];
  Before before[kRows];
  SavedCell<T> saved[kUnits][kRows];
  T grad_output[kUnits][kRows];
  Acc grad_c[kUnits][kRows] = {};  // what flows to the step before
};

}  // namespace lstm_fused
