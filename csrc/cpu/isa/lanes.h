// Products whose rows are in the lanes of vectors: an element of W, which is read where it lies and once for all of
// them, is multiplied by all rows. What is transposed is the other factor, which is far smaller.
#pragma once

#include "cpu/isa/rows.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// Rows that share a reading of the weights, in vectors, and accumulators of a tile of the product.
#if defined(__AVX512F__)
constexpr int kMostVectors = 4, kAccumulators = 24;
#elif defined(__AVX2__)
constexpr int kMostVectors = 3, kAccumulators = 12;
#elif LSTM_FUSED_NEON
constexpr int kMostVectors = 2, kAccumulators = 16;
#else
constexpr int kMostVectors = 2, kAccumulators = 8;
#endif
template <class T>
constexpr int kStepRows = kMostVectors * kLanes<T>;
// Groups of rows that do, as even as possible in vectors: four of them are two and two, as one alone has few sums.
template <class T>
inline int64_t num_groups(int64_t rows) {
  return num_tiles(rows, kStepRows<T>);
}
template <class T>
inline Range group_of(int64_t rows, int64_t group) {
  const int64_t vectors = num_tiles(rows, kLanes<T>), groups = num_groups<T>(rows);
  const auto begin = [&](int64_t n) { return min(rows, n * vectors / groups * kLanes<T>); };
  return {begin(group), begin(group + 1)};
}

// At most 8 rows of W: a set of the first-level cache holds 8 lines, and rows of 4 KB meet in one set.
template <int V>
constexpr int kWeightRows = kAccumulators / V < 8 ? kAccumulators / V : 8;

// The panel (K, V vectors): row(n) in lane n, for n < count.
template <int V, class E, class RowOf>
void pack_lanes(int64_t count, int64_t terms, E* panel, RowOf&& row) {
  using T = Wide<E>;
  for (int v = 0; v < V; ++v)
    pack_transposed<E, 1>([&](int lane) { return row(v * kLanes<T> + lane); }, terms,
                          valid_lanes<T>(v * kLanes<T>, count), panel + v * kLanes<T>, V * kLanes<T>);
}

// out(i) (V vectors) = row(i) of W . panel (K, V vectors), for 0 <= i < count <= kMost, or added to it; running sums
// have kTogether elements.
template <int V, int kMost, int64_t kTogether, class E, class RowOf, class OutOf>
void multiply_rows(int64_t count, int64_t k_size, const E* panel, bool adds, RowOf&& row, OutOf&& out) {
  using T = Wide<E>;
  using W = std::remove_cv_t<std::remove_pointer_t<decltype(row(0))>>;
  constexpr bool kWidens = !std::is_same_v<T, W> && kTerms<E> == 1;
  const auto tile = [&](int64_t first, auto weight_rows) __attribute__((always_inline)) {
    constexpr int R = weight_rows.value, kWidth = V * kLanes<E>;
    // To be R, the last ones take along some of those before them, or one several times, and drop the results.
    const int64_t begin = first + R <= count || count < R ? first : count - R;
    for (int64_t k = 0; k < k_size; k += kTogether) {
      const int64_t size = min(kTogether, k_size - k);
      const E* rows[R];
      [[maybe_unused]] alignas(kVectorBytes) T widened[kWidens ? R * kTogether : 1];
      for (int r = 0; r < R; ++r) {
        const W* const from = row(min(begin + r, count - 1)) + k;
        if constexpr (!kWidens) {
          rows[r] = reinterpret_cast<const E*>(from);
        } else {
          rows[r] = widened + r * kTogether;
          for (int64_t n = 0; n < size; n += kLanes<T>)
            store(widened + r * kTogether + n, load(from + n, valid_lanes<T>(n, size)));
        }
      }
      const Accumulators<T, R, V> acc =
          multiply<E, R, V>(rows, size, panel + k / kTerms<E> * kWidth, kWidth, kPanelWidth<E>, kTogether);
      for (int r = 0; r < R; ++r) {
        if (begin + r < first || begin + r >= count) continue;
        for (int v = 0; v < V; ++v) {
          T* const to = out(begin + r) + v * kLanes<T>;
          store(to, adds || k > 0 ? load(to) + acc.at[r][v] : acc.at[r][v]);
        }
      }
    }
  };
  // As even as possible: 32 rows in tiles of 6 become 6, 6, 5, 5, 5 and 5.
  constexpr int kHigh = kWeightRows<V> < kMost ? kWeightRows<V> : kMost, kLow = kMost / ((kMost + kHigh - 1) / kHigh);
  for (int64_t first = 0; first < count;) {
    if (kLow < kHigh && (count - first) % kLow == 0) {
      tile(first, Constant<kLow>{});
      first += kLow;
    } else {
      tile(first, Constant<kHigh>{});
      first += kHigh;
    }
  }
}

// take(n, its `columns` columns) of each row n < count of what multiply_rows left: sums (columns, width).
template <class T, class Take>
LSTM_FUSED_INLINE void for_rows_of_lanes(const T* sums, int64_t width, int columns, int64_t count, Take&& take) {
  for (int64_t first = 0; first < count; first += kLanes<T>) {
    Vec<T> of_rows[kLanes<T>] = {};
    for (int n = 0; n < columns; ++n) of_rows[n] = load(sums + n * width + first);
    transpose<T>(of_rows);
    for (int64_t n = 0; n < min(kLanes<T>, count - first); ++n) take(first + n, of_rows[n]);
  }
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
