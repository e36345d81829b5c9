// The general cell, forward and backward, beside the plain one of cell.h: the equations of lstm_fused/reference.py.
// What stands between c~ and h, a norm, is the caller's, as it needs all of a row; so backward comes in two parts. Math
// has clamped(x, limit) and where_within(x, limit, value) as well.
#pragma once

#include "cell.h"

namespace lstm_fused {

template <class V>
struct Peepholes {
  V i, f, o;
};

// What else a cell may have, at the units of V.
template <class V>
struct CellExtras {
  bool has_peepholes, has_clip;
  Peepholes<V> peepholes;
  V clip;

  template <class Math>
  LSTM_FUSED_INLINE V clipped(const V& raw) const {
    return has_clip ? Math::clamped(raw, clip) : raw;
  }
};

template <class V>
struct CellStep {
  Gates<V> gates;
  V raw, c;  // c~ before and after the clip
};

template <class Math, class V>
LSTM_FUSED_INLINE CellStep<V> variant_cell(const Gates<V>& pre, const V& c_prev, const CellExtras<V>& extras) {
  Gates<V> sums = pre;
  if (extras.has_peepholes) {
    sums.i = sums.i + extras.peepholes.i * c_prev;
    sums.f = sums.f + extras.peepholes.f * c_prev;
  }
  Gates<V> gates = {Math::sigmoid(sums.i), Math::sigmoid(sums.f), Math::tanh(sums.g), sums.o};
  const V raw = next_cell(gates, c_prev), c = extras.template clipped<Math>(raw);
  if (extras.has_peepholes) gates.o = gates.o + extras.peepholes.o * c;
  gates.o = Math::sigmoid(gates.o);
  return {gates, raw, c};
}

template <class V>
struct HiddenGradient {
  V pre_o, inner;  // of o's sum, and of what tanh is taken of
};

// Of o tanh(n), with the gradient of that.
template <class V>
LSTM_FUSED_INLINE HiddenGradient<V> hidden_backward(const V& o, const V& tanh_n, const V& grad) {
  return {grad * tanh_n * o * (1 - o), grad * o * (1 - tanh_n * tanh_n)};
}

// `grad_c` is the gradient of c~, but for what comes through o's peephole, of whose sum the gradient is `pre_o`.
template <class Math, class V>
LSTM_FUSED_INLINE CellGradient<V> variant_cell_backward(const Gates<V>& gates, const V& c_prev, const V& raw,
                                                        const V& pre_o, const V& grad_c, const CellExtras<V>& extras) {
  V of_raw = grad_c;
  if (extras.has_peepholes) of_raw = of_raw + pre_o * extras.peepholes.o;
  if (extras.has_clip) of_raw = Math::where_within(raw, extras.clip, of_raw);
  CellGradient<V> grad = {{of_raw * gates.g * gates.i * (1 - gates.i),  //
                           of_raw * c_prev * gates.f * (1 - gates.f),   //
                           of_raw * gates.i * (1 - gates.g * gates.g),  //
                           pre_o},
                          of_raw * gates.f};
  if (extras.has_peepholes)
    grad.c_prev = grad.c_prev + extras.peepholes.i * grad.pre.i + extras.peepholes.f * grad.pre.f;
  return grad;
}

// Zoneout: what was before where the mask is not zero, or, without a mask, that share of it.
template <class V, class T>
LSTM_FUSED_INLINE V zoned_out(const V* mask, T share, const V& before, const V& after) {
  if (mask) return *mask != 0 ? before : after;
  return share == 0 ? after : share * before + (1 - share) * after;
}

// Its gradient, split into what goes to either.
template <class V>
struct ZoneoutGradient {
  V before, after;
};
template <class V, class T>
LSTM_FUSED_INLINE ZoneoutGradient<V> zoneout_backward(const V* mask, T share, const V& grad) {
  if (!mask) return {share * grad, (1 - share) * grad};
  const V none{};
  return {*mask != 0 ? grad : none, *mask != 0 ? none : grad};
}

}  // namespace lstm_fused
