// The transcendental functions of the cell on a GPU, and its steps on elements in memory.
#pragma once

#include <cmath>

#include "cell.h"
#include "clock.h"
#include "kernels/accesses.cuh"

namespace lstm_fused {

// For elements of 16 bits, which resolve 2^-11 at best. tanh has 2^-11 of the result, in one special-function
// instruction; sigmoid in two about 2^-22, for as half of 1 + tanh(x / 2) small ones would lose all of their bits.
struct FastMath {
  static LSTM_FUSED_DEVICE float sigmoid(float x) {
    return reciprocal_approximate(1.0f + exp2_approximate(-1.4426950408889634f * x));
  }
  static LSTM_FUSED_DEVICE float tanh(float x) { return tanh_approximate(x); }
};

// To the accuracy of the elements.
struct FullMath {
  static LSTM_FUSED_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
  static LSTM_FUSED_DEVICE float tanh(float x) { return tanhf(x); }
  static LSTM_FUSED_DEVICE double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }
  static LSTM_FUSED_DEVICE double tanh(double x) { return ::tanh(x); }
};

template <class T>
struct MathOf {
  using type = FullMath;
};
template <>
struct MathOf<float16> {
  using type = FastMath;
};
template <>
struct MathOf<bfloat16> {
  using type = FastMath;
};

// ---- where the elements of step t of row b lie

template <class T, class Acc>
LSTM_FUSED_DEVICE T* gates_at(const LayerShape& s, const ForwardParams<T, Acc>& p, int64_t t, int64_t b) {
  return p.gates + ((t - p.gates_time) * s.batch + b) * kNumGates * s.hidden_size;
}
template <class P>
LSTM_FUSED_DEVICE auto output_at(const LayerShape& s, const P& p, int64_t t, int64_t b) {
  return p.output + (t * s.batch + b) * s.output_stride;
}
template <class P>
LSTM_FUSED_DEVICE auto cells_at(const LayerShape& s, const P& p, int64_t t, int64_t b) {
  return p.cells + t * s.cells_time + b * s.cells_stride;
}

// Element `unit` of the four gates of a row, `width` apart.
template <class T>
LSTM_FUSED_DEVICE Gates<T> load_gates(const T* gates, int64_t width) {
  return {gates[0], gates[width], gates[2 * width], gates[3 * width]};
}
template <class T>
LSTM_FUSED_DEVICE void store_gates(T* gates, int64_t width, const Gates<T>& values) {
  gates[0] = values.i;
  gates[width] = values.f;
  gates[2 * width] = values.g;
  gates[3 * width] = values.o;
}
// Only where they are `wanted`; what is not loaded is zero.
template <class T>
LSTM_FUSED_DEVICE Gates<T> load_gates_if(bool wanted, const T* gates, int64_t width) {
  return {load_global_if(wanted, gates), load_global_if(wanted, gates + width),
          load_global_if(wanted, gates + 2 * width), load_global_if(wanted, gates + 3 * width)};
}
template <class T>
LSTM_FUSED_DEVICE void store_gates_if(bool wanted, T* gates, int64_t width, const Gates<T>& x) {
  store_global_if(wanted, gates, x.i);
  store_global_if(wanted, gates + width, x.f);
  store_global_if(wanted, gates + 2 * width, x.g);
  store_global_if(wanted, gates + 3 * width, x.o);
}
template <class T>
LSTM_FUSED_DEVICE Gates<Accumulator<T>> widen(const Gates<T>& x) {
  return {to_accumulator(x.i), to_accumulator(x.f), to_accumulator(x.g), to_accumulator(x.o)};
}
template <class T>
LSTM_FUSED_DEVICE Gates<T> round_gates(const Gates<Accumulator<T>>& x) {
  return {round_to<T>(x.i), round_to<T>(x.f), round_to<T>(x.g), round_to<T>(x.o)};
}
template <class V>
LSTM_FUSED_DEVICE Gates<V> add(const Gates<V>& a, const Gates<V>& b) {
  return {a.i + b.i, a.f + b.f, a.g + b.g, a.o + b.o};
}

template <class T>
LSTM_FUSED_DEVICE Gates<Accumulator<T>> bias_of(const T* b_ih, const T* b_hh, int64_t unit, int64_t width) {
  if (b_ih == nullptr) return {};
  return add(widen(load_gates(b_ih + unit, width)), widen(load_gates(b_hh + unit, width)));
}

// ---- forward

// The cell of step t of row b: takes c on by a step, writes what is kept, and returns o * tanh(c).
template <bool kTraining, class T, class Acc>
LSTM_FUSED_DEVICE Acc forward_at(const LayerShape& s, const ForwardParams<T, Acc>& p, int64_t t, int64_t b,
                                 int64_t unit, const Gates<Acc>& pre, Acc& c) {
  using Math = typename MathOf<T>::type;
  const Gates<Acc> gates = activate<Math>(pre);
  c = next_cell(gates, c);
  if constexpr (kTraining) store_gates(gates_at(s, p, t, b) + unit, s.hidden_size, round_gates<T>(gates));
  return next_hidden<Math>(gates, c);
}

// ---- backward

// What forward left of one unit of step t of row b.
template <class T>
struct SavedCell {
  Gates<T> gates;
  Accumulator<T> c, c_prev;
};
template <class T, class Acc>
LSTM_FUSED_DEVICE SavedCell<T> load_saved(const LayerShape& s, const BackwardParams<T, Acc>& p, const Clock& clock,
                                          int64_t t, int64_t b, int64_t unit, Before before) {
  SavedCell<T> saved;
  saved.gates = load_gates(p.gates + (t * s.batch + b) * kNumGates * s.hidden_size + unit, s.hidden_size);
  saved.c = cells_at(s, p, t, b)[unit];
  saved.c_prev = before == Before::kInitial ? to_accumulator(p.c_0[b * s.hidden_size + unit])
                 : before == Before::kStep  ? cells_at(s, p, clock.previous(t), b)[unit]
                                            : 0;
  return saved;
}

// The gradients that reach h and c of step t of row b from outside the recurrence, but for grad_output.
template <class T, class Acc>
LSTM_FUSED_DEVICE Acc last_grad_h(const LayerShape& s, const BackwardParams<T, Acc>& p, const Clock& clock, int64_t t,
                                  int64_t b, int64_t column) {
  return p.grad_h_n != nullptr && t == clock.last(b) ? to_accumulator(p.grad_h_n[b * s.proj_width + column]) : 0;
}
template <class T, class Acc>
LSTM_FUSED_DEVICE Acc outer_grad_c(const LayerShape& s, const BackwardParams<T, Acc>& p, const Clock& clock, int64_t t,
                                   int64_t b, int64_t unit) {
  Acc grad = 0;
  if (p.grad_c_n != nullptr && t == clock.last(b)) grad = to_accumulator(p.grad_c_n[b * s.hidden_size + unit]);
  if (p.grad_cells != nullptr) grad += to_accumulator(p.grad_cells[(t * s.batch + b) * p.grad_cells_stride + unit]);
  return grad;
}

}  // namespace lstm_fused
