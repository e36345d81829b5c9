// Products of matrices that lie along K in memory, as weights (out, in) and rows of x and h do: every element is a dot
// product, summed in the lanes of one vector and then across them. Nothing is packed, each weight is read once for all
// rows of a tile, and an element's sum has the same order whatever the tile.
#pragma once

#include <bit>

#include "cpu/isa/product.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// A tile is R rows of A by 4 * U rows of W, R * 4 * U accumulators, at most kDotSums.
#if defined(__AVX512F__) || LSTM_FUSED_NEON
constexpr int kDotSums = 16, kDotRows = 4;
#else
constexpr int kDotSums = 12, kDotRows = 3;
#endif
template <int R>
constexpr int kDotUnits = std::bit_floor(kDotSums / (4u * R));

// Whether the next tile's W is fetched meanwhile. By itself a core reads as far ahead as it has instructions under way:
// where those of a cache line are many, as to widen it takes some, that is too near for weights that are not in a
// cache.
template <class W>
constexpr int kLine = 64 / sizeof(W);
template <class T, class W, int R>
constexpr bool kFetchesAhead = sizeof(W) < sizeof(T) && kLine<W> / kLanes<T> * (2 + R) >= 12;

// The first n elements at p, 0 < n < kLanes, zero past them, and nothing read there.
template <class T>
struct Tail {
#if defined(__AVX512F__)
  explicit Tail(int n) : mask((1u << n) - 1) {}
  LSTM_FUSED_INLINE Vec<float> operator()(const float* p) const { return _mm512_maskz_loadu_ps(mask, p); }
  LSTM_FUSED_INLINE Vec<double> operator()(const double* p) const { return _mm512_maskz_loadu_pd(mask, p); }
  template <class Half>
  LSTM_FUSED_INLINE Vec<float> operator()(const Half* p) const {
    return widened((HalfBits)_mm256_maskz_loadu_epi16(mask, p), Half());
  }
  unsigned mask;
#elif defined(__AVX2__)
  explicit Tail(int n) : last(n - 1) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      mask[lane] = lane < n ? -1 : 0;
      pairs[lane] = 2 * lane + 1 < n ? -1 : 0;
      odd[lane] = lane == last && n % 2 == 1 ? 0xffff : 0;
    }
  }
  LSTM_FUSED_INLINE Vec<float> operator()(const float* p) const { return _mm256_maskload_ps(p, (__m256i)mask); }
  LSTM_FUSED_INLINE Vec<double> operator()(const double* p) const { return _mm256_maskload_pd(p, (__m256i)mask); }
  template <class Half>  // whole pairs, as there is no masked load of 16 bits, and the last by itself
  LSTM_FUSED_INLINE Vec<float> operator()(const Half* p) const {
    const __m128i most = _mm_maskload_epi32(reinterpret_cast<const int*>(p), _mm256_castsi256_si128((__m256i)pairs));
    return widened((HalfBits)most | (p[last].bits & odd), Half());
  }
  int last;
  Ints<T> mask, pairs;
  HalfBits odd = {};
#else
  explicit Tail(int n) : n(n) {}
  template <class W>
  LSTM_FUSED_INLINE Vec<T> operator()(const W* p) const {
    return load(p, n);
  }
  int n;
#endif
};

// Two matrices to multiply: R rows of A, and in four groups rows of W, k_size apart, each group from its first one on.
template <class T, class W, int R>
struct Factors {
  const T* a[R];
  const W* w[4];
  int64_t k_size;
};

// Of a tile: at (r * 4 + group) * U + u the products a[r] . (row u of the group), whose lanes are still to be summed.
template <class T, int R, int U>
struct DotSums {
  static constexpr int kCount = R * 4 * U;
  Vec<T> at[kCount];

  LSTM_FUSED_INLINE void clear() {
#pragma GCC unroll 16
    for (int n = 0; n < kCount; ++n) at[n] = Vec<T>{};
  }
  LSTM_FUSED_INLINE void load_from(const Vec<T>* sums) {
#pragma GCC unroll 16
    for (int n = 0; n < kCount; ++n) at[n] = sums[n];
  }
  LSTM_FUSED_INLINE void store_to(Vec<T>* sums) const {
#pragma GCC unroll 16
    for (int n = 0; n < kCount; ++n) sums[n] = at[n];
  }

  template <class W>
  LSTM_FUSED_INLINE void add(const Factors<T, W, R>& f) {
    const int64_t k_size = f.k_size, whole = k_size - k_size % kLanes<T>;
    const auto add_vectors = [&](int64_t k, auto&& load_at) __attribute__((always_inline)) {
      Vec<T> a[R];
      for (int r = 0; r < R; ++r) a[r] = load_at(f.a[r] + k);
#pragma GCC unroll 4
      for (int group = 0; group < 4; ++group)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
          const Vec<T> w = load_at(f.w[group] + u * k_size + k);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            Vec<T>& sum = at[(r * 4 + group) * U + u];
            sum = multiply_add(a[r], w, sum);
          }
        }
    };
    const auto add_to = [&](int64_t k, int64_t end) __attribute__((always_inline)) {
      for (; k < end; k += kLanes<T>) add_vectors(k, [](const auto* p) { return load(p); });
    };
    if constexpr (kFetchesAhead<T, W, R>) {
      for (int64_t line = 0; line < whole; line += kLine<W>) {
        for (int group = 0; group < 4; ++group)
          for (int u = U; u < 2 * U; ++u) __builtin_prefetch(f.w[group] + u * k_size + line);
        add_to(line, min(whole, line + kLine<W>));
      }
    } else {
      add_to(0, whole);
    }
    if (whole < k_size) add_vectors(whole, Tail<T>(static_cast<int>(k_size - whole)));
  }

  // take(r, group, u, sum).
  template <class Take>
  LSTM_FUSED_INLINE void sum(Take&& take) const {
    constexpr int kVectors = (kCount + kLanes<T> - 1) / kLanes<T>;
    Vec<T> all[kVectors * kLanes<T>] = {};  // of those past the last one nothing remains
#pragma GCC unroll 16
    for (int n = 0; n < kCount; ++n) all[n] = at[n];
    alignas(kVectorBytes) T sums[kVectors * kLanes<T>];
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) store(sums + n * kLanes<T>, sum_lanes<T>(all + n * kLanes<T>));
#pragma GCC unroll 16
    for (int n = 0; n < kCount; ++n) take(n / (4 * U), n / U % 4, n % U, sums[n]);
  }
};

// Covers `count` rows with tiles of kDotRows, and 2 and 1 at the end: f(first, Constant<R>).
template <class F>
LSTM_FUSED_INLINE void for_dot_rows(int64_t count, F&& f) {
  int64_t first = 0;
  for (; first + kDotRows <= count; first += kDotRows) f(first, Constant<kDotRows>{});
  if (first + 2 <= count) {
    f(first, Constant<2>{});
    first += 2;
  }
  if (first < count) f(first, Constant<1>{});
}

// Covers `count` units with tiles of U and 1: f(first, Constant<U>).
template <int U, class F>
LSTM_FUSED_INLINE void for_dot_units(int64_t count, F&& f) {
  int64_t first = 0;
  for (; first + U <= count; first += U) f(first, Constant<U>{});
  if constexpr (U > 1)
    for (; first < count; ++first) f(first, Constant<1>{});
}

// out (num_rows, width) = a w^T, columns [begin, end), for rows a[n] of K elements.
template <class T, class W, class RowOf, class OutOf>
LSTM_FUSED_INLINE void columns_of_product(int64_t num_rows, RowOf&& a, const W* w, int64_t k_size, int64_t begin,
                                          int64_t end, OutOf&& out) {
  const auto tile = [&](int64_t row, auto rows, int64_t column, auto units) {
    constexpr int R = rows.value, U = units.value;
    const int64_t count = min(4 * U, end - column);
    Factors<T, W, R> factors;
    for (int r = 0; r < R; ++r) factors.a[r] = a(row + r);
    // Past the last column it is computed again, and dropped.
    for (int group = 0; group < 4; ++group) factors.w[group] = w + (column + min(group * U, count - U)) * k_size;
    factors.k_size = k_size;
    DotSums<T, R, U> sums;
    sums.clear();
    sums.add(factors);
    sums.sum([&](int r, int group, int u, T sum) {
      if (group * U + u < count) out(row + r)[column + group * U + u] = sum;
    });
  };
  for (int64_t column = begin; column < end;) {
    constexpr int kColumns = 4 * kDotUnits<1>;
    const int64_t count = min(kColumns, end - column);
    for_dot_rows(num_rows, [&](int64_t row, auto rows) {
      constexpr int U = kDotUnits<rows.value>;
      int64_t n = 0;
      for (; n + 4 * U <= count; n += 4 * U) tile(row, rows, column + n, Constant<U>{});
      for (; n < count; n += 4) tile(row, rows, column + n, Constant<1>{});
    });
    column += count;
  }
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
