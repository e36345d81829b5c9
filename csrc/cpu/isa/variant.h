// What forward and backward of the cell's variants share: products with a packed matrix, a row's moments, and the
// options of a cell as vectors.
#pragma once

#include <array>
#include <cmath>
#include <cstring>

#include "cpu/isa/kernels.h"
#include "cpu/isa/panels.h"
#include "cpu/isa/vector_math.h"
#include "variant_cell.h"
#include "variant_rows.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// A matrix (terms, columns) in panels, and the product of rows with it.
template <class T>
struct PackedMatrix {
  T* panels;
  int64_t terms, columns;

  static int64_t size(int64_t terms, int64_t columns) {
    return num_tiles(columns, kPanelWidth<T>) * panel_size<T>(terms);
  }
  int64_t num_blocks() const { return num_tiles(columns, kPanelWidth<T>); }
  T* panel(int64_t block) const { return panels + block * panel_size<T>(terms); }

  void pack(const T* matrix, int64_t block) const {
    pack_columns(matrix, terms, columns, block * kPanelWidth<T>, panel(block));
  }
  // Of a matrix (columns, terms).
  void pack_transpose(const T* matrix, int64_t block) const {
    const int64_t begin = block * kPanelWidth<T>;
    pack_transposed<T, kTileVectors>([&](int lane) { return matrix + (begin + lane) * terms; }, terms,
                                     static_cast<int>(min(kPanelWidth<T>, columns - begin)), panel(block),
                                     kPanelWidth<T>);
  }

  // f(n, column, lanes, sums) of each row and vector of columns of blocks.
  template <class F>
  void multiply_rows(const T* const* rows, int64_t count, Range blocks, F&& f) const {
    for_tiles<kTileVectors>(count, blocks, INT64_MAX, /*backwards=*/false,
                            [&](int64_t first, auto R, int64_t block, auto N) {
                              tile<R.value, N.value * kTileVectors>(rows, first, block, f);
                            });
  }

 private:
  template <int R, int V, class F>
  __attribute__((noinline)) void tile(const T* const* rows, int64_t first, int64_t block, F& f) const {
    const Panels<T> of_block = {panel(block), panel_size<T>(terms)};
    multiply_panels<R, V>(rows + first, terms, of_block, kChain, [&](int r, int v, Vec<T> sum) {
      const int64_t column = block * kPanelWidth<T> + v * kLanes<T>;
      with_lanes<T>(valid_lanes<T>(column, columns), [&](auto lanes) { f(first + r, column, lanes.value, sum); });
    });
  }
};

// f(rows, count) for chunks of those rows that take part in step t.
template <class F>
void for_rows(const Clock& clock, int64_t t, Range rows, F&& f) {
  int64_t row[kChunk];
  for (int64_t b = rows.begin; b < rows.end;) {
    int64_t count = 0;
    for (; b < rows.end && count < kChunk; ++b)
      if (t < clock.length(b)) row[count++] = b;
    if (count > 0) f(row, count);
  }
}

// f(n, lanes) for each vector of a row.
template <class T, class F>
LSTM_FUSED_INLINE void for_vectors(int64_t width, F&& f) {
  for (int64_t n = 0; n < width; n += kLanes<T>)
    with_lanes<T>(valid_lanes<T>(n, width), [&](auto lanes) { f(n, lanes.value); });
}

// Halves onto each other: one lane after the other would wait for every sum.
template <class T>
LSTM_FUSED_INLINE T sum_of_lanes(Vec<T> v) {
  T lanes[kLanes<T>];
  std::memcpy(lanes, &v, sizeof(v));
#pragma GCC unroll 8
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// The sums over a row of f(n, lanes), one vector or an array of them, whose lanes past the row are zero; of running
// sums, as products are.
template <class T, class F>
LSTM_FUSED_INLINE auto sums_over(int64_t width, F&& f) {
  using Values = decltype(f(int64_t{}, kLanes<T>));
  constexpr int kCount = sizeof(Values) / sizeof(Vec<T>);
  Vec<T> totals[kCount] = {};
  for (int64_t n = 0; n < width;) {
    Vec<T> sums[kCount] = {};
    for (const int64_t end = min(width, n + kChain * kLanes<T>); n < end; n += kLanes<T>)
      with_lanes<T>(valid_lanes<T>(n, width), [&](auto lanes) {
        const Values values = f(n, lanes.value);
        for (int v = 0; v < kCount; ++v) sums[v] += reinterpret_cast<const Vec<T>*>(&values)[v];
      });
    for (int v = 0; v < kCount; ++v) totals[v] += sums[v];
  }
  std::array<T, kCount> results{};
  for (int v = 0; v < kCount; ++v) results[v] = sum_of_lanes<T>(totals[v]);
  return results;
}

// The first n lanes of a vector, zero past them.
template <class T>
LSTM_FUSED_INLINE Vec<T> first_lanes(Vec<T> v, int n) {
  for (int lane = n; lane < kLanes<T>; ++lane) v[lane] = 0;
  return v;
}

template <class T>
struct Moments {
  T mean, scale;  // of a normalised row: (x - mean) * scale
};

constexpr double kEpsilon = 1e-5;  // as lstm_fused/reference.py

// Of a row f(n, lanes). The second pass is over differences from the first one's mean, so that a large mean does not
// spoil them.
template <class T, class F>
LSTM_FUSED_INLINE Moments<T> moments(int64_t width, F&& f) {
  const T count = static_cast<T>(width), near = sums_over<T>(width, f)[0] / count;
  const auto [differences, squares] = sums_over<T>(width, [&](int64_t n, int lanes) {
    const Vec<T> difference = first_lanes<T>(f(n, lanes) - near, lanes);
    return std::array{difference, difference * difference};
  });
  const T rest = differences / count, variance = squares / count - rest * rest;
  return {near + rest, 1 / std::sqrt(variance + static_cast<T>(kEpsilon))};
}

// to = the gradient of a row before its norm, where `grad` is that of its result, `normalised` the row without the
// norm's weight and bias, and `scale` what it was multiplied with.
template <class T>
void norm_backward(int64_t width, const T* grad, const T* weight, const T* normalised, T scale, T* to) {
  // Rounded, by lying in memory, before its mean is taken from it: of a row of one number nothing is left then, where a
  // multiply-add would leave the rounding, times the scale.
  const auto [sum, product] = sums_over<T>(width, [&](int64_t n, int lanes) {
    const Vec<T> weighted = load(grad + n, lanes) * load(weight + n, lanes);
    store(to + n, weighted, lanes);
    return std::array{weighted, weighted * load(normalised + n, lanes)};
  });
  const T count = static_cast<T>(width), mean = sum / count, slope = product / count;
  for_vectors<T>(width, [&](int64_t n, int lanes) {
    store(to + n, scale * (load(to + n, lanes) - mean - slope * load(normalised + n, lanes)), lanes);
  });
}

template <class T, int N = 1>
struct VariantMath : VectorMath<T, N> {
  using V = Vectors<T, N>;
  static LSTM_FUSED_INLINE V clamped(const V& x, const V& limit) {  // NaN stays NaN
    return V::each([&](int n) {
      const Vec<T> above = x.at[n] > limit.at[n] ? limit.at[n] : x.at[n];
      return above < -limit.at[n] ? -limit.at[n] : above;
    });
  }
  // The value where x is within the limits, else zero.
  static LSTM_FUSED_INLINE V where_within(const V& x, const V& limit, const V& value) {
    return V::each([&](int n) {
      const Vec<T> below = x.at[n] <= limit.at[n] ? value.at[n] : Vec<T>{};
      return x.at[n] >= -limit.at[n] ? below : Vec<T>{};
    });
  }
};

// N vectors of a cell's options, from unit(n) on.
template <class T, int N = 1, class UnitOf>
LSTM_FUSED_INLINE CellExtras<Vectors<T, N>> extras_at(const VariantCell<T>& cell, int64_t hidden_size, UnitOf&& unit,
                                                      int lanes) {
  using V = Vectors<T, N>;
  CellExtras<V> extras{cell.peepholes != nullptr, cell.cell_clip > 0, {}, cell.cell_clip};
  const auto peephole = [&](int row) {
    return V::each([&](int n) { return load(cell.peepholes + row * hidden_size + unit(n), lanes); });
  };
  if (extras.has_peepholes) extras.peepholes = {peephole(0), peephole(1), peephole(2)};
  return extras;
}

// f(mask), of the vector that lies there, or of null.
template <class T, class F>
LSTM_FUSED_INLINE auto with_mask(const T* mask, int lanes, F&& f) {
  const Vec<T>* const none = nullptr;
  if (mask == nullptr) return f(none);
  const Vec<T> loaded = load(mask, lanes);
  return f(&loaded);
}
template <class T>
LSTM_FUSED_INLINE Vec<T> zoned_out(const T* mask, T share, int lanes, Vec<T> before, Vec<T> after) {
  return with_mask(mask, lanes, [&](const Vec<T>* m) { return lstm_fused::zoned_out(m, share, before, after); });
}
template <class T>
LSTM_FUSED_INLINE ZoneoutGradient<Vec<T>> zoneout_backward(const T* mask, T share, int lanes, Vec<T> grad) {
  return with_mask(mask, lanes, [&](const Vec<T>* m) { return lstm_fused::zoneout_backward(m, share, grad); });
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
