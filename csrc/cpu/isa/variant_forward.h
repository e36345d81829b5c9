// What a variant of the cell has and keeps beyond the plain one, forward: recurrence.h calls it where there is one.
#pragma once

#include "cpu/isa/variant.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// Where a row of the batch finds and leaves the states of a step.
template <class T>
struct VariantRow {
  int64_t t, b;
  const T *h_before, *c_before;
  T *output, *cells;
  T *factor, *other_place;  // of m h as the next step multiplies it; null where nobody asks
};

template <class T>
class VariantForward {
 public:
  // A vector of units of a row.
  struct Place {
    const VariantRow<T>* row;
    int64_t unit;
  };

  bool has_norms() const { return v().cell.has_norms(); }
  bool has_factor() const { return v().kept.factor != nullptr; }

  // m h that step t starts from.
  T* factor(int64_t t, int64_t b) const {
    return v().kept.factor + ((v().kept.all_states ? t : t % 2) * s.batch + b) * s.proj_width;
  }
  T* recurrent_sums(int64_t t, int64_t b) const { return state(v().kept.recurrent_sums, t, b, gates_width()); }

  // What no step leaves: factors that begin a segment, and what backward multiplies with zero past a row's length.
  void prepare(Steps steps) const {
    if (!has_factor()) return;
    for (int64_t step = steps.begin; step < steps.end; ++step)
      for (int64_t b = 0; b < s.batch; ++b) prepare(clock.time(step), b);
  }

  // N vectors of cells, of one place each, from the sums of their gates. With norms they leave gates and c~ alone.
  // `hidden` (B, H) takes o tanh(..) where that is not yet h.
  template <int N>
  __attribute__((noinline)) void cells(const Place* at, const Gates<Vectors<T, N>>& pre, T* hidden, int lanes) const {
    using V = Vectors<T, N>;
    with_lanes<T>(lanes, [&](auto valid) {
      constexpr auto each = [](auto&& f) { return V::each(f); };
      const V before = each([&](int n) { return load(at[n].row->c_before + at[n].unit, valid.value); });
      const CellStep<V> next = variant_cell<VariantMath<T, N>>(pre, before, extras<N>(at, valid.value));
      for (int n = 0; n < N; ++n) {
        const VariantRow<T>& row = *at[n].row;
        const int64_t unit = at[n].unit;
        if (v().kept.gates != nullptr) {
          T* const gates = gates_row(v().kept.gates, row) + unit;
          store(gates, next.gates.i.at[n], valid.value);
          store(gates + s.hidden_size, next.gates.f.at[n], valid.value);
          store(gates + 2 * s.hidden_size, next.gates.g.at[n], valid.value);
          store(gates + 3 * s.hidden_size, next.gates.o.at[n], valid.value);
        }
        if (v().kept.raw != nullptr) store(raw(row) + unit, next.raw.at[n], valid.value);
        if (v().kept.c_prev != nullptr)
          store(state(v().kept.c_prev, row.t, row.b, s.hidden_size) + unit, before.at[n], valid.value);
      }
      if (!has_norms()) leave<N>(at, next.gates.o, next.c, next.c, hidden, valid.value);
    });
  }

  // All cells of a row whose products are in recurrent_sums: a norm needs them all.
  void norm_cells(const VariantRow<T>& row, T* hidden) const {
    const int64_t width = s.hidden_size;
    T *const input = gates_row(p.gates, row), *const sums = recurrent_sums(row.t, row.b);
    const auto of_row = [&](const T* from) {
      return moments<T>(gates_width(), [=](int64_t n, int lanes) { return load(from + n, lanes); });
    };
    const Moments<T> of_x = of_row(input), of_h = of_row(sums);
    for_cells(row, [&](const Place* at, auto together, int lanes) {
      using V = Vectors<T, together.value>;
      const auto pre = [&](int gate) {
        return V::each([&](int n) { return normed_sum(of_x, input, of_h, sums, gate * width + at[n].unit, lanes); });
      };
      cells<together.value>(at, {pre(0), pre(1), pre(2), pre(3)}, hidden, lanes);
    });
    const auto clipped = [&](int64_t n, int lanes) {
      const Place at = {&row, n};
      return extras<1>(&at, lanes).template clipped<VariantMath<T, 1>>(load(raw(row) + n, lanes)).at[0];
    };
    const Moments<T> m = moments<T>(width, clipped);
    if (T* const kept = v().kept.statistics) {
      T* const scales = state(kept, row.t, row.b, kNumStatistics);
      scales[kScaleIh] = of_x.scale;
      scales[kScaleHh] = of_h.scale;
      scales[kMeanC] = m.mean;
      scales[kScaleC] = m.scale;
    }
    const Norm<T>& norm = v().cell.norm_c;
    for_cells(row, [&](const Place* at, auto together, int lanes) {
      using V = Vectors<T, together.value>;
      const auto each = [&](auto&& f) { return V::each([&](int n) { return f(at[n].unit); }); };
      const V c = each([&](int64_t n) { return clipped(n, lanes); });
      const V weight = each([&](int64_t n) { return load(norm.weight + n, lanes); });
      const V bias = each([&](int64_t n) { return load(norm.bias + n, lanes); });
      const V o = each([&](int64_t n) { return load(gates_row(v().kept.gates, row) + 3 * width + n, lanes); });
      leave<together.value>(at, o, c, (c - m.mean) * m.scale * weight + bias, hidden, lanes);
    });
  }

  // A vector of h~: what zoneout makes of it, and the factor of the next step.
  LSTM_FUSED_INLINE void leave_h(const VariantRow<T>& row, int64_t n, Vec<T> h, int lanes) const {
    const VariantCell<T>& cell = v().cell;
    if (cell.zoneout_h != nullptr || cell.keeps_h != 0) {
      const T* const mask = cell.zoneout_h != nullptr ? of_all(cell.zoneout_h, row, s.proj_width) + n : nullptr;
      h = zoned_out(mask, cell.keeps_h, lanes, load(row.h_before + n, lanes), h);
    }
    store(row.output + n, h, lanes);
    if (cell.recurrent_mask != nullptr) h *= load(cell.recurrent_mask + row.b * s.proj_width + n, lanes);
    if (row.factor != nullptr) store(row.factor + n, h, lanes);
    if (row.other_place != nullptr) store(row.other_place + n, h, lanes);
  }

  const LayerShape& s;
  const CpuForwardParams<T>& p;
  const Clock clock;

 private:
  const CpuVariant<T>& v() const { return *p.variant; }
  int64_t gates_width() const { return kNumGates * s.hidden_size; }

  template <class P>
  P* of_all(P* rows, const VariantRow<T>& row, int64_t width) const {
    return rows + (row.t * s.batch + row.b) * width;
  }
  T* state(T* states, int64_t t, int64_t b, int64_t width) const {
    return states + ((v().kept.all_states ? t : 0) * s.batch + b) * width;
  }
  T* raw(const VariantRow<T>& row) const { return state(v().kept.raw, row.t, row.b, s.hidden_size); }
  T* gates_row(T* gates, const VariantRow<T>& row) const {
    return gates + ((row.t - p.gates_time) * s.batch + row.b) * gates_width();
  }

  void prepare(int64_t t, int64_t b) const {
    const VariantKept<T>& kept = v().kept;
    const bool over = t >= clock.length(b);
    const Before before = over ? Before::kNothing : clock.before(t, b);
    if (before == Before::kInitial) {
      const T *const h = p.h_0 + b * s.proj_width, *const mask = v().cell.recurrent_mask;
      for (int64_t n = 0; n < s.proj_width; ++n)
        factor(t, b)[n] = mask != nullptr ? mask[b * s.proj_width + n] * h[n] : h[n];
    }
    if (!kept.all_states) return;
    if (before == Before::kNothing) fill(factor(t, b), T(0), s.proj_width);
    if (!over) return;
    fill(state(kept.c_prev, t, b, s.hidden_size), T(0), s.hidden_size);
    fill(state(kept.raw, t, b, s.hidden_size), T(0), s.hidden_size);
    if (!has_norms()) return;
    for (T* const sums : {kept.input_sums, kept.recurrent_sums})
      fill(state(sums, t, b, gates_width()), T(0), gates_width());
  }

  // f(places, Constant<N>, lanes) for all vectors of a row, kCellRows at a time.
  template <class F>
  LSTM_FUSED_INLINE void for_cells(const VariantRow<T>& row, F&& f) const {
    Place at[kCellRows];
    int64_t n = 0;
    for (; n + kCellRows * kLanes<T> <= s.hidden_size; n += kCellRows * kLanes<T>) {
      for (int v = 0; v < kCellRows; ++v) at[v] = {&row, n + v * kLanes<T>};
      f(at, Constant<kCellRows>{}, kLanes<T>);
    }
    for (; n < s.hidden_size; n += kLanes<T>) {
      at[0] = {&row, n};
      f(at, Constant<1>{}, valid_lanes<T>(n, s.hidden_size));
    }
  }

  template <int N>
  LSTM_FUSED_INLINE CellExtras<Vectors<T, N>> extras(const Place* at, int lanes) const {
    return extras_at<T, N>(v().cell, s.hidden_size, [&](int n) { return at[n].unit; }, lanes);
  }

  // N vectors of a step's results: c~, and h~ = o tanh(inner).
  template <int N>
  LSTM_FUSED_INLINE void leave(const Place* at, const Vectors<T, N>& o, const Vectors<T, N>& c,
                               const Vectors<T, N>& inner, T* hidden, int lanes) const {
    const VariantCell<T>& cell = v().cell;
    const Vectors<T, N> h = o * VariantMath<T, N>::tanh(inner);
    for (int n = 0; n < N; ++n) {
      const VariantRow<T>& row = *at[n].row;
      const int64_t unit = at[n].unit;
      const T* const mask = cell.zoneout_c != nullptr ? of_all(cell.zoneout_c, row, s.hidden_size) + unit : nullptr;
      store(row.cells + unit, zoned_out(mask, cell.keeps_c, lanes, load(row.c_before + unit, lanes), c.at[n]), lanes);
      if (s.has_projection)
        store(hidden + row.b * s.hidden_size + unit, h.at[n], lanes);
      else
        leave_h(row, unit, h.at[n], lanes);
    }
  }

  // Of both sums, normalised: what a gate is taken of. Backward wants them so.
  LSTM_FUSED_INLINE Vec<T> normed_sum(const Moments<T>& of_x, T* input, const Moments<T>& of_h, T* sums, int64_t n,
                                      int lanes) const {
    const Norm<T>&norm_x = v().cell.norm_ih, &norm_h = v().cell.norm_hh;
    Vec<T> bias = load(norm_x.bias + n, lanes) + load(norm_h.bias + n, lanes);
    if (p.b_ih != nullptr) bias += load(p.b_ih + n, lanes) + load(p.b_hh + n, lanes);
    const Vec<T> from_x = (load(input + n, lanes) - of_x.mean) * of_x.scale,
                 from_h = (load(sums + n, lanes) - of_h.mean) * of_h.scale;
    if (v().kept.all_states) {
      store(input + n, from_x, lanes);
      store(sums + n, from_h, lanes);
    }
    return multiply_add(from_h, load(norm_h.weight + n, lanes), from_x * load(norm_x.weight + n, lanes)) + bias;
  }
};

}  // namespace lstm_fused::LSTM_FUSED_ISA
