// The cells of one lane of a persistent kernel, forward: what stays in its registers from step to step, and what a step
// does to it. Which lanes, and how h travels between them, is the kernel's own matter. A step is, in this order:
//   step()     computes; h is then on its way to those who multiply it
//   advance()  to the next step
//   store()    what the step leaves in memory
//   load()     sends for what the next step needs; x W_ih^T prefetch() may have, while step() still waited for its sums
#pragma once

#include "kernels/cell_math.cuh"
#include "kernels/product.cuh"

namespace lstm_fused {

// When x W_ih^T of a step is loaded: never, as the kernel multiplies x itself; by load(); or a whole step before it is
// used, which hides all of the way from memory and takes twice the registers.
enum class Input { kNone, kLoaded, kPrefetched };

// One hidden unit of kRows neighbouring rows of the batch. A unit or row that does not exist has no steps.
template <class A, int kRows, bool kTraining, Input kInput>
class ForwardCells {
 public:
  using T = Element<A>;
  using Acc = Accumulator<T>;

  LSTM_FUSED_DEVICE ForwardCells(const LayerShape& shape, const ForwardParams<T, Acc>& params, int64_t unit)
      : s(shape),
        p(params),
        clock{shape, params.reverse},
        unit(static_cast<int>(unit)),
        direction(params.reverse ? -1 : 1),
        output_bytes(static_cast<uint32_t>(shape.output_stride * int64_t{sizeof(T)})),
        gates_bytes(static_cast<uint32_t>(kNumGates * shape.hidden_size * int64_t{sizeof(T)})) {
    if (unit < s.hidden_size) bias = bias_of(p.b_ih, p.b_hh, unit, s.hidden_size);
  }

  // To a step of these rows, of which nothing is known yet: begin(), or resume() and load() follow.
  LSTM_FUSED_DEVICE void move_to(int64_t row_of_batch, int64_t num_steps, int64_t step) {
    turn_to(row_of_batch, num_steps, step);
    go_to(num_steps, step);
  }
  // The same where load_present() and store_present() follow, which form their addresses themselves.
  LSTM_FUSED_DEVICE void turn_to(int64_t row_of_batch, int64_t num_steps, int64_t step) {
    first_row = static_cast<int>(row_of_batch);
#pragma unroll
    for (int n = 0; n < kRows; ++n) length[n] = exists(n) ? static_cast<int>(clock.length(row(n))) : 0;
    t = static_cast<int>(p.reverse ? num_steps - 1 - step : step);
  }
  // To another step of the same rows, in place of advance(): where registers are short, addresses need none in between.
  LSTM_FUSED_DEVICE void go_to(int64_t num_steps, int64_t step) {
    t = static_cast<int>(p.reverse ? num_steps - 1 - step : step);
    const int64_t before = t - direction, gates_time = (kGatesFollow ? before : t) - p.gates_time;
    if constexpr (kHasGates) gates = p.gates + (gates_time * s.batch + first_row) * kNumGates * s.hidden_size + unit;
    output = p.output + (before * s.batch + first_row) * s.output_stride + unit;
    cells = p.cells + before * s.cells_time + first_row * s.cells_stride + unit;
  }
  // In place of all that: to a step of the same rows, its load() and its store(). Addresses are formed as they are
  // used, and no registers hold them in between; rows of all steps are counted in 32 bits.
  LSTM_FUSED_DEVICE void advance_by(int steps) { t += steps * direction; }
  LSTM_FUSED_DEVICE void load_present(bool has_input) {
    point_to_gates();
    load(has_input);
  }
  LSTM_FUSED_DEVICE void store_present() {
    output = row_at(p.output + unit, rows_until(t), output_bytes);
    if (s.cells_time != 0) cells = p.cells + t * s.cells_time + first_row * s.cells_stride + unit;
    if constexpr (kTraining) point_to_gates();
    store_at(t, gates);
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

  // What the product of a first step takes for element `at` of h_0, (B, H).
  static LSTM_FUSED_DEVICE T first_factor(const ForwardParams<T, Acc>& p, int64_t at) {
    return as_factor<A>(p.h_0[at]);
  }
  // Before the first step, if there is one. What it needs is sent for.
  LSTM_FUSED_DEVICE void begin(bool has_input = true) {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const bool loads = exists(n) && !segment_starts(t, n);
      h[n] = loads ? p.h_0[row(n) * s.hidden_size + unit] : T{};
      c[n] = loads ? to_accumulator(p.c_0[row(n) * s.hidden_size + unit]) : 0;
    }
    if constexpr (kInput == Input::kPrefetched) load_input(t, input);
    load(has_input);
  }
  LSTM_FUSED_DEVICE void load(bool has_input = true) {
    if constexpr (kInput == Input::kLoaded)
      if (has_input) load_input(t, input);
    if (s.segments.reset == nullptr) return;
#pragma unroll
    for (int n = 0; n < kRows; ++n) starts[n] = segment_starts(t + direction, n);
  }
  LSTM_FUSED_DEVICE void prefetch() {
    if constexpr (kInput == Input::kPrefetched) load_input(t + direction, coming);
  }

  // recurrent is h W_hh^T (and x W_ih^T, if multiplied here). An inactive row keeps what it had. Without branches, so
  // that the rows' chains of special functions run side by side.
  LSTM_FUSED_DEVICE void step(const Gates<Acc> (&recurrent)[kRows]) {
    using Math = typename MathOf<T>::type;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      // The bias last: it may be large, and no term should be rounded to its size.
      const Gates<Acc> sums = kInput == Input::kNone ? recurrent[n] : add(widen(input[n]), recurrent[n]);
      const Gates<Acc> activated = activate<Math>(add(sums, bias));
      const Acc next = next_cell(activated, c[n]);
      const T hidden = round_to<T>(next_hidden<Math>(activated, next));
      if constexpr (kTraining) kept_gates[n] = round_gates<T>(activated);
      kept_c[n] = is_active(t, n) ? next : c[n];
      kept_h[n] = is_active(t, n) ? hidden : h[n];
      c[n] = starts[n] ? Acc{0} : kept_c[n];
      h[n] = starts[n] ? T{} : kept_h[n];
    }
  }
  // h after the step, even where the next one starts a segment.
  LSTM_FUSED_DEVICE T hidden(int n) const { return kept_h[n]; }
  // h as the next step multiplies it.
  LSTM_FUSED_DEVICE T factor(int n) const { return as_factor<A>(h[n]); }

  LSTM_FUSED_DEVICE void advance() {
    t += direction;
    if constexpr (!kGatesFollow) gates += direction * gates_stride();
#pragma unroll
    for (int n = 0; n < kRows; ++n)
      if constexpr (kInput == Input::kPrefetched) input[n] = coming[n];
  }
  // Of the step before the one at hand, if there is one. Called once for each, as its addresses go on here.
  LSTM_FUSED_DEVICE void store() {
    store_at(t - direction, kGatesFollow ? gates : gates - direction * gates_stride());
    output += direction * s.batch * s.output_stride;
    cells += direction * s.cells_time;
    if constexpr (kHasGates && kGatesFollow) gates += direction * gates_stride();
  }

  // After the last step.
  LSTM_FUSED_DEVICE void finish() const {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if (!exists(n)) continue;
      p.h_n[row(n) * s.hidden_size + unit] = h[n];
      p.c_n[row(n) * s.hidden_size + unit] = round_to<T>(c[n]);
      for (int64_t past = length[n]; past < s.seq_len; ++past) {  // the row's end
        output_at(s, p, past, row(n))[unit] = T{};
        if (s.cells_time != 0) cells_at(s, p, past, row(n))[unit] = 0;
      }
    }
  }

 private:
  // Whether the address of gates is that of the step which store() comes to next, as load() has no use for it.
  static constexpr bool kGatesFollow = kInput == Input::kNone;
  static constexpr bool kHasGates = kTraining || kInput != Input::kNone;  // in memory, to load x W_ih^T from or to keep
  LSTM_FUSED_DEVICE uint32_t rows_until(int time) const {
    return static_cast<uint32_t>(time) * static_cast<uint32_t>(s.batch) + static_cast<uint32_t>(first_row);
  }
  template <class E>
  static LSTM_FUSED_DEVICE E* row_at(E* first, uint32_t row, uint32_t row_bytes) {
    return reinterpret_cast<E*>(reinterpret_cast<char*>(first) + uint64_t{row} * row_bytes);  // one instruction
  }
  LSTM_FUSED_DEVICE void point_to_gates() {
    gates = row_at(p.gates + unit, rows_until(t - static_cast<int>(p.gates_time)), gates_bytes);
  }
  // Of the step at `time`, where output and cells point to.
  LSTM_FUSED_DEVICE void store_at(int time, T* its_gates) const {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const bool active = is_active(time, n);
      store_global_if(active, output + n * s.output_stride, kept_h[n]);
      store_global_if(active && s.cells_time != 0, cells + n * s.cells_stride, kept_c[n]);
      if constexpr (kTraining)
        store_gates_if(active, its_gates + n * kNumGates * s.hidden_size, s.hidden_size, kept_gates[n]);
    }
  }
  LSTM_FUSED_DEVICE int64_t row(int n) const { return first_row + n; }
  LSTM_FUSED_DEVICE bool exists(int n) const { return row(n) < s.batch && unit < s.hidden_size; }
  LSTM_FUSED_DEVICE bool is_active(int time, int n) const {
    return static_cast<unsigned>(time) < static_cast<unsigned>(length[n]);
  }
  LSTM_FUSED_DEVICE int64_t gates_stride() const { return s.batch * kNumGates * s.hidden_size; }
  LSTM_FUSED_DEVICE void load_input(int time, Gates<T> (&to)[kRows]) const {
#pragma unroll
    for (int n = 0; n < kRows; ++n)
      to[n] = load_gates_if(is_active(time, n), gates + (time - t) * gates_stride() + n * kNumGates * s.hidden_size,
                            s.hidden_size);
  }
  // Whether the step at that time does, as clock.before() says, of a row's length that is known.
  LSTM_FUSED_DEVICE bool segment_starts(int time, int n) const {
    if (s.segments.reset == nullptr || !is_active(time, n)) return false;
    if (p.reverse && time == length[n] - 1) return false;
    return s.segments.reset[int64_t{p.reverse ? time + 1 : time} * s.batch + row(n)];
  }

  const LayerShape& s;
  const ForwardParams<T, Acc>& p;
  const Clock clock;
  const int unit, direction;
  const uint32_t output_bytes, gates_bytes;  // of a row
  int first_row = 0, t = 0;
  // Of the first row. Those of output and cells are where store() comes to next: of the step before.
  T *gates = nullptr, *output = nullptr;
  Acc* cells = nullptr;
  Gates<Acc> bias = {};
  int length[kRows];
  T h[kRows], kept_h[kRows];  // before the coming step, and after the last one
  Acc c[kRows], kept_c[kRows];
  Gates<T> input[kRows] = {}, coming[kRows] = {}, kept_gates[kRows];
  bool starts[kRows] = {};  // whether a segment does at the step behind the one at hand
};

}  // namespace lstm_fused
