// A register-blocked product  acc (R x 4 vectors) = A (R rows, K) * panel (K, 4 vectors), and the packing of weights into
// such panels: a panel is read front to back, whole vectors at a time, whatever the width of the matrix.
#pragma once

#include "cpu/isa/vector.h"

namespace lstm_fused::LSTM_FUSED_ISA {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t num_tiles(int64_t size, int64_t tile) { return size / tile + (size % tile != 0); }

template <class T>
constexpr int kPanelWidth = kTileVectors * kLanes<T>;

// The valid lanes of the vector that starts at column `begin` of a matrix of `width` columns.
template <class T>
inline int valid_lanes(int64_t begin, int64_t width) {
  return begin >= width ? 0 : static_cast<int>(min(kLanes<T>, width - begin));
}

template <class T, int R>
struct Accumulators {
  Vec<T> at[R][kTileVectors];
};

template <class T, int R>
inline __attribute__((always_inline)) Accumulators<T, R> multiply(const T* const* a, int64_t k_size, const T* panel) {
  Accumulators<T, R> acc = {};
  const T* row[R];
  for (int r = 0; r < R; ++r) row[r] = a[r];
  for (int64_t k = 0; k < k_size; ++k) {
    Vec<T> w[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) w[v] = load(panel + v * kLanes<T>);
    panel += kPanelWidth<T>;
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTileVectors; ++v) acc.at[r][v] += row[r][k] * w[v];
  }
  return acc;
}

// Calls f with the number of rows as a compile-time constant, 1 <= rows <= R.
template <int N>
struct Rows {
  static constexpr int value = N;
};
template <int R, class F>
inline __attribute__((always_inline)) void with_rows(int64_t rows, F&& f) {
  if constexpr (R > 1) {
    if (rows < R) return with_rows<R - 1>(rows, f);
  }
  f(Rows<R>{});
}

// Splits `count` rows into tiles as even as possible, f(first, rows): 8 rows in tiles of 6 become 4 + 4, not 6 + 2.
template <class F>
inline __attribute__((always_inline)) void for_row_tiles(int64_t count, F&& f) {
  const int64_t tiles = num_tiles(count, kTileRows);
  for (int64_t tile = 0, first = 0; tile < tiles; ++tile) {
    const int64_t rows = (count - first + tiles - tile - 1) / (tiles - tile);
    with_rows<kTileRows>(rows, [&](auto constant) { f(first, constant); });
    first += rows;
  }
}

// panel (K, 4 vectors) from matrix (K, width), columns begin ... begin + 4 vectors; zero past the width.
template <class T>
void pack_columns(const T* matrix, int64_t k_size, int64_t width, int64_t begin, T* panel) {
  const int64_t valid = min(kPanelWidth<T>, width - begin);
  for (int64_t k = 0; k < k_size; ++k, panel += kPanelWidth<T>) {
    for (int64_t n = 0; n < valid; ++n) panel[n] = matrix[k * width + begin + n];
    for (int64_t n = valid; n < kPanelWidth<T>; ++n) panel[n] = 0;
  }
}

// One vector column of a panel, transposed: lane j of vector `v` at k is matrix[j][k], for `valid` lanes, zero past them.
template <class T>
void pack_transposed(const T* matrix, int64_t k_size, int valid, int v, T* panel) {
  panel += v * kLanes<T>;
  for (int64_t k = 0; k < k_size; ++k, panel += kPanelWidth<T>)
    for (int lane = 0; lane < kLanes<T>; ++lane) panel[lane] = lane < valid ? matrix[lane * k_size + k] : 0;
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
