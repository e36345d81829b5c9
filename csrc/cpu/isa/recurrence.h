// What the kernels of the forward recurrence share: where a step's rows lie, which of them take part and from which
// state, and their cells.
#pragma once

#include "cpu/isa/cells.h"
#include "cpu/isa/kernels.h"
#include "cpu/isa/layer.h"
#include "cpu/isa/variant_forward.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// The rows that take part in a step, at most kRows of them, what each of them starts it from, and where it leaves it.
template <class T, int kRows>
struct StepRows {
  int64_t t, count;
  int64_t row[kRows];
  const Operand<T>* x[kRows];  // where the kernel projects the input
  const Operand<T>* h_prev[kRows];
  const T* c_prev[kRows];
  T* gates[kRows];  // null where they have no place
  T* cells[kRows];
  Kept<T>* output[kRows];
  Kept<T>* factor[kRows];        // h once more, as the next step multiplies it; null where that is `output`
  VariantRow<T> variant[kRows];  // of a variant
};

// One direction of a layer. `zeros` (H,) is the state at a reset.
template <class T>
struct Recurrence {
  using E = Operand<T>;
  const LayerShape& s;
  const CpuForwardParams<T>& p;
  T* const zeros;
  const SeparateRows<T> state = {};  // of `states`, if a step multiplies those rather than rows of output
  T* const states = nullptr;
  const Clock clock{s, p.reverse};
  const VariantForward<T> variant{s, p, clock};

  bool is_variant() const { return !kMultipliesPairs && p.variant != nullptr; }
  bool has_norms() const { return is_variant() && variant.has_norms(); }
  bool projects_input() const { return p.x != nullptr || p.rounded.x != nullptr; }
  bool uses_gates() const { return !projects_input() || (p.keep_gates && !kMultipliesPairs); }

  T* gates(int64_t t, int64_t b) const {
    return p.gates + (row_of(s, t, b) - row_of(s, p.gates_time, 0)) * kNumGates * s.hidden_size;
  }
  // Where what stays is rounded, h and c are here for as long as the recurrence reads them; where it multiplies pairs,
  // it reads h as it stays.
  bool rounds() const { return p.rounded.output != nullptr; }

  Kept<T>* output(int64_t t, int64_t b) const {
    if constexpr (kMultipliesPairs)
      return static_cast<Kept<T>*>(p.rounded.output) + row_of(s, t, b) * s.output_stride;
    else if (rounds())
      return p.output + (t % 2 * s.batch + b) * s.proj_width;
    else
      return p.output + row_of(s, t, b) * s.output_stride;
  }
  // h as the next step multiplies it.
  Kept<T>* factor(int64_t t, int64_t b) const {
    return state.size() > 0 ? reinterpret_cast<Kept<T>*>(states + state.at(t, b)) : output(t, b);
  }
  T* cells(int64_t t, int64_t b) const { return p.cells + (s.cells_time != 0 ? row_of(s, t, b) : b) * s.cells_stride; }

  void prepare(Steps steps) const {
    if (s.segments.reset != nullptr) fill(zeros, T(0), s.hidden_size);
    if constexpr (!kMultipliesPairs)
      if (p.variant != nullptr) variant.prepare(steps);
    if (s.segments.lengths == nullptr || s.row_begin != nullptr) return;  // no padding
    for (int64_t step = steps.begin; step < steps.end; ++step)
      for (int64_t b = 0; b < s.batch; ++b) {
        const int64_t t = clock.time(step);
        if (t < clock.length(b)) continue;
        with_rounded([&](auto* output, auto* gates, auto* cells) {
          const int64_t row = row_of(s, t, b), width = s.hidden_size;
          fill(output + row * s.output_stride, {}, s.proj_width);
          if (gates != nullptr) fill(gates + row * kNumGates * width, {}, kNumGates * width);
          if (cells != nullptr) fill(cells + row * p.rounded.cells_stride, {}, width);
        });
        if (rounds()) continue;
        fill(output(t, b), {}, s.proj_width);
        if (s.cells_time != 0) fill(cells(t, b), T(0), s.hidden_size);
      }
  }

  // After a step of these rows, unless it has stored that: what stays of units [begin, end), and of h if it is not
  // projected.
  template <int kRows>
  void round_units(const StepRows<T, kRows>& rows, int64_t begin, int64_t end) const {
    const int64_t width = s.hidden_size, size = end - begin;
    if constexpr (!kMultipliesPairs)
      with_rounded([&](auto* output, auto* to_gates, auto* to_cells) {
        for (int64_t n = 0; n < rows.count; ++n) {
          const int64_t row = row_of(s, rows.t, rows.row[n]);
          for (int gate = 0; gate < kNumGates && to_gates != nullptr; ++gate)
            round(rows.gates[n] + gate * width + begin, size, to_gates + (row * kNumGates + gate) * width + begin);
          if (to_cells != nullptr) round(rows.cells[n] + begin, size, to_cells + row * p.rounded.cells_stride + begin);
          if (!s.has_projection) round(rows.output[n] + begin, size, output + row * s.output_stride + begin);
        }
      });
  }

  // After its projection: columns [begin, end) of h.
  template <int kRows>
  void after_projection(const StepRows<T, kRows>& rows, int64_t begin, int64_t end) const {
    if constexpr (!kMultipliesPairs) {
      with_rounded([&](auto* output, auto*, auto*) {
        for (int64_t n = 0; n < rows.count; ++n) {
          const int64_t row = row_of(s, rows.t, rows.row[n]);
          round(rows.output[n] + begin, end - begin, output + row * s.output_stride + begin);
        }
      });
      for (int64_t n = 0; n < rows.count && is_variant(); ++n) {
        const VariantRow<T>& row = rows.variant[n];
        for (int64_t k = begin; k < end; k += kLanes<T>) {
          const int lanes = valid_lanes<T>(k, end);
          variant.leave_h(row, k, load(row.output + k, lanes), lanes);
        }
      }
    }
  }

  // f(rows) for those of a step's rows that are still inside their length, kRows at a time.
  template <int kRows, class F>
  void for_rows(int64_t step, Range of_batch, F&& f) const {
    StepRows<T, kRows> rows;
    while (of_batch.begin < of_batch.end) {
      of_batch.begin = take_rows(step, of_batch, rows);
      if (rows.count > 0) f(rows);
    }
  }

  // The first of them, and where the next ones begin.
  template <int kRows>
  int64_t take_rows(int64_t step, Range of_batch, StepRows<T, kRows>& rows) const {
    rows.t = clock.time(step);
    rows.count = 0;
    int64_t b = of_batch.begin;
    for (; b < of_batch.end && rows.count < kRows; ++b)
      if (rows.t < clock.length(b)) add(rows, b);
    return b;
  }

  // b_ih + b_hh of a vector of units.
  LSTM_FUSED_INLINE Vec<T> bias(int gate, int64_t unit, int lanes) const {
    if (p.b_ih == nullptr) return Vec<T>{};
    const int64_t begin = gate * s.hidden_size + unit;
    return load(p.b_ih + begin, lanes) + load(p.b_hh + begin, lanes);
  }

  // Where the kernel forms it, x W_ih^T is part of `product`; else it is at a place of `gates`. The bias last: it may
  // be large, and the sum of products should not be rounded to its size at every term.
  LSTM_FUSED_INLINE Vec<T> gate_sum(Vec<T> product, const T* gates, int64_t place, Vec<T> bias, int lanes) const {
    return (projects_input() ? product : load(gates + place, lanes) + product) + bias;
  }

  // As update(), of all `count` cells of the tile, of a variant.
  template <int kSides, int kRows, class SumOf, class BiasOf>
  LSTM_FUSED_INLINE void update_variant(const StepRows<T, kRows>& rows, int64_t first, int count, int64_t unit,
                                        int lanes, T* hidden, SumOf&& sum, BiasOf&& bias) const {
    using Place = typename VariantForward<T>::Place;
    const auto update = [&](int cell, auto together) {
      constexpr int N = together.value;
      using V = Vectors<T, N>;
      Place at[N];
      for (int n = 0; n < N; ++n)
        at[n] = {&rows.variant[first + (cell + n) / kSides], unit + (cell + n) % kSides * kLanes<T>};
      if (variant.has_norms()) {
        for (int gate = 0; gate < kNumGates; ++gate)
          for (int n = 0; n < N; ++n)
            store(variant.recurrent_sums(rows.t, at[n].row->b) + gate * s.hidden_size + at[n].unit, sum(gate, cell + n),
                  lanes);
        return;
      }
      const auto pre = [&](int gate) {
        return V::each([&](int n) {
          const T* const of_x = rows.gates[first + (cell + n) / kSides];
          return gate_sum(sum(gate, cell + n), of_x, gate * s.hidden_size + at[n].unit, bias(gate, (cell + n) % kSides),
                          lanes);
        });
      };
      variant.template cells<N>(at, {pre(0), pre(1), pre(2), pre(3)}, hidden, lanes);
    };
    int n = 0;
    for (; n + kCellRows <= count; n += kCellRows) update(n, Constant<kCellRows>{});
    for (; n < count; ++n) update(n, Constant<1>{});
  }

  // A stage behind that, where it has norms.
  void norm_cells(int64_t step, Range of_batch, T* hidden) const {
    if constexpr (!kMultipliesPairs)
      for_rows<kChunk>(step, of_batch, [&](const StepRows<T, kChunk>& rows) {
        for (int64_t n = 0; n < rows.count; ++n) variant.norm_cells(rows.variant[n], hidden);
      });
  }

  // `count` vectors of cells of a tile of rows `first` ... of a step by kSides vectors of units from `unit` on, row by
  // row. sum(gate, n) is h_prev W_hh^T of the n-th, plus x W_ih^T if the kernel forms it, and bias(gate, side) that of
  // both. `hidden` (B, H) takes o tanh(c) where that is not yet h.
  template <int kSides, int kRows, class SumOf, class BiasOf>
  LSTM_FUSED_INLINE void update(const StepRows<T, kRows>& rows, int64_t first, int count, int64_t unit, int lanes,
                                T* hidden, SumOf&& sum, BiasOf&& bias) const {
    const int64_t width = s.hidden_size;
    const auto row = [&](int cell) { return first + cell / kSides; };
    const auto begin = [&](int cell) { return unit + cell % kSides * kLanes<T>; };
    const auto open = [&](int cell, auto together) __attribute__((always_inline)) {
      constexpr int N = together.value;
      using V = Vectors<T, N>;
      const auto pre = [&](int gate) {
        return V::each([&](int n) {
          return gate_sum(sum(gate, cell + n), rows.gates[row(cell + n)], gate * width + begin(cell + n),
                          bias(gate, (cell + n) % kSides), lanes);
        });
      };
      const Gates<V> active = activate<CellMath<T, N>>(Gates<V>{pre(0), pre(1), pre(2), pre(3)});
      const V c =
          next_cell(active, V::each([&](int n) { return load(rows.c_prev[row(cell + n)] + begin(cell + n), lanes); }));
      for (int n = 0; n < N; ++n) {
        store(rows.cells[row(cell + n)] + begin(cell + n), c.at[n], lanes);
        [[maybe_unused]] int64_t place;
        if constexpr (kMultipliesPairs) {
          place = row_of(s, rows.t, rows.row[row(cell + n)]);
          if (p.rounded.cells != nullptr)
            store(static_cast<Kept<T>*>(p.rounded.cells) + place * p.rounded.cells_stride + begin(cell + n), c.at[n],
                  lanes);
        }
        if (!p.keep_gates) continue;
        Kept<T>* kept;
        if constexpr (kMultipliesPairs)
          kept = static_cast<Kept<T>*>(p.rounded.gates) + place * kNumGates * width + begin(cell + n);
        else
          kept = rows.gates[row(cell + n)] + begin(cell + n);
        store(kept, active.i.at[n], lanes);
        store(kept + width, active.f.at[n], lanes);
        store(kept + 2 * width, active.g.at[n], lanes);
        store(kept + 3 * width, active.o.at[n], lanes);
      }
      return OpenCells<T, N>{active.o, c};
    };
    for_cells<T>(count, open, [&](int cell, const auto& opened) __attribute__((always_inline)) {
      constexpr int N = std::remove_cvref_t<decltype(opened)>::kCount;
      const Vectors<T, N> h = opened.hidden();
      for (int n = 0; n < N; ++n) {
        if (s.has_projection)
          store(hidden + rows.row[row(cell + n)] * width + begin(cell + n), h.at[n], lanes);
        else
          store_h(rows, row(cell + n), begin(cell + n), h.at[n], lanes);
      }
    });
  }

  template <int kRows>
  LSTM_FUSED_INLINE static void store_h(const StepRows<T, kRows>& rows, int64_t n, int64_t begin, Vec<T> h, int lanes) {
    store(rows.output[n] + begin, h, lanes);
    if (rows.factor[n] != nullptr) store(rows.factor[n] + begin, h, lanes);
  }

  void finish(int64_t b) const {
    const bool empty = clock.length(b) == 0;
    const int64_t last = clock.last(b);
    T* const h_n = p.h_n + b * s.proj_width;
    empty ? copy(h_n, p.h_0 + b * s.proj_width, s.proj_width) : copy(h_n, output(last, b), s.proj_width);
    copy(p.c_n + b * s.hidden_size, empty ? p.c_0 + b * s.hidden_size : cells(last, b), s.hidden_size);
  }

 private:
  VariantRow<T> variant_row(int64_t t, int64_t b) const {
    const Before before = clock.before(t, b);
    const int64_t previous = clock.previous(t), next = clock.next(t);
    const bool goes_on = next >= 0 && next < clock.length(b) && clock.before(next, b) == Before::kStep;
    return {.t = t,
            .b = b,
            .h_before = before == Before::kInitial ? p.h_0 + b * s.proj_width
                        : before == Before::kStep  ? output(previous, b)
                                                   : zeros,
            .c_before = before == Before::kInitial ? p.c_0 + b * s.hidden_size
                        : before == Before::kStep  ? cells(previous, b)
                                                   : zeros,
            .output = output(t, b),
            .cells = cells(t, b),
            .factor = goes_on && variant.has_factor() ? variant.factor(next, b) : nullptr,
            .other_place = state.size() > 0 ? factor(t, b) : nullptr};
  }

  // f(output, gates, cells) that stay, where those are rounded.
  template <class F>
  void with_rounded(F&& f) const {
    if constexpr (std::is_same_v<T, float>) {
      const auto call = [&](auto half) {
        using Half = decltype(half);
        f(static_cast<Half*>(p.rounded.output), static_cast<Half*>(p.rounded.gates),
          static_cast<Half*>(p.rounded.cells));
      };
      if (rounds()) p.kept_type == DType::kBFloat16 ? call(BFloat16{}) : call(Float16{});
    }
  }

  template <class Half>
  static void round(const T* from, int64_t count, Half* to) {
    for (int64_t n = 0; n < count; n += kLanes<T>)
      with_lanes<T>(valid_lanes<T>(n, count),
                    [&](auto lanes) { store(to + n, load(from + n, lanes.value), lanes.value); });
  }

  template <int kRows>
  void add(StepRows<T, kRows>& rows, int64_t b) const {
    const int64_t n = rows.count++;
    rows.row[n] = b;
    const int64_t previous = clock.previous(rows.t);
    const Before before = clock.before(rows.t, b);
    rows.c_prev[n] = before == Before::kInitial ? p.c_0 + b * s.hidden_size
                     : before == Before::kStep  ? cells(previous, b)
                                                : zeros;
    rows.gates[n] = uses_gates() ? gates(rows.t, b) : nullptr;
    rows.cells[n] = cells(rows.t, b);
    rows.output[n] = output(rows.t, b);
    rows.factor[n] = state.size() > 0 ? factor(rows.t, b) : nullptr;
    if constexpr (kTerms<E> > 1) {
      const auto at = [](const void* rows, int64_t n) {
        return reinterpret_cast<const E*>(static_cast<const BFloat16*>(rows) + n);
      };
      if (projects_input()) rows.x[n] = at(p.rounded.x, row_of(s, rows.t, b) * p.input_size);
      rows.h_prev[n] = before == Before::kInitial ? at(p.rounded.h_0, b * s.proj_width)
                       : before == Before::kStep  ? at(factor(previous, b), 0)
                                                  : at(zeros, 0);
    } else {
      if (projects_input())
        rows.x[n] = p.x + (row_of(s, rows.t, b) - (rounds() ? row_of(s, p.gates_time, 0) : 0)) * p.input_size;
      rows.h_prev[n] = before == Before::kInitial ? p.h_0 + b * s.proj_width
                       : before == Before::kStep  ? factor(previous, b)
                                                  : zeros;
      if (is_variant()) {
        rows.variant[n] = variant_row(rows.t, b);
        if (variant.has_factor() && (before == Before::kInitial || (before == Before::kStep && state.size() == 0)))
          rows.h_prev[n] = variant.factor(rows.t, b);
      }
    }
  }
};

}  // namespace lstm_fused::LSTM_FUSED_ISA
