// Products that are over before b is packed.
#pragma once

#include "cpu/isa/dots.h"
#include "cpu/isa/lanes.h"
#include "cpu/kernels.h"
#include "few_rows.h"

namespace lstm_fused::LSTM_FUSED_ISA {

inline bool is_half(DType type) { return type == DType::kFloat16 || type == DType::kBFloat16; }

template <class T, class F>
bool every_factor(const ProductParams<T>& p, F&& holds) {
  for (int n = 0; n < p.num_factors(); ++n)
    if (!holds(p.factors[n])) return false;
  return true;
}

// b that lies along the terms, as a weight (out, in) does, is read where it lies by rows that fill some vectors. With
// more of them the packed product is faster, and with fewer or where b is to be widened, dot products are.
template <class T>
bool is_of_lanes(const ProductParams<T>& p) {
  constexpr int64_t kLeastRows = kVectorBytes == 64 ? 16 : 24, kMostRows = min(192 / sizeof(T), 2 * kStepRows<T>);
  constexpr int64_t kLeastTerms = 128;
  if (!p.b_transposed || p.a_transposed || p.terms < kLeastTerms) return false;
  return kLeastRows <= p.rows && p.rows <= kMostRows && every_factor(p, [](const ProductFactor& f) {
           return !f.adds && !is_half(f.y_type) && is_half(f.b_type) == kMultipliesPairs;
         });
}

// Of a thread: the panel of a group of rows.
template <class T>
int64_t lanes_workspace(const ProductParams<T>& p) {
  return kStepRows<T> * num_tiles(p.terms, kTerms<Operand<T>>);
}

// These columns of these rows, which fill V vectors.
template <int V, class T, class B>
void columns_of_lanes(const ProductParams<T>& p, const ProductFactor& f, const B* b, Range rows, Range of_columns,
                      Operand<T>* panel) {
  const int64_t count = rows.end - rows.begin;
  with_factor_type<T>(p.a, p.a_type, [&](const auto* a) {
    pack_lanes<V>(count, p.terms, panel, [&](int64_t n) { return a + (rows.begin + n) * p.terms; });
  });
  for (int64_t column = of_columns.begin; column < of_columns.end; column += kLanes<T>) {
    alignas(kVectorBytes) T sums[kLanes<T>][V * kLanes<T>];
    const int columns = valid_lanes<T>(column, f.columns);
    multiply_rows<V, kLanes<T>, kGateChain>(
        columns, p.terms, panel, false, [&](int64_t i) { return b + (column + i) * p.terms; },
        [&](int64_t i) { return sums[i]; });
    T* const y = static_cast<T*>(f.y) + rows.begin * f.columns + column;
    for_rows_of_lanes<T>(sums[0], V * kLanes<T>, columns, count,
                         [&](int64_t n, Vec<T> row) { store(y + n * f.columns, row, columns); });
  }
}

template <class T>
void product_of_lanes(const ProductParams<T>& p, const ProductFactor& f, T* workspace, const Parallel& parallel) {
  using B = std::conditional_t<kMultipliesPairs, BFloat16, T>;
  const int64_t blocks = num_tiles(f.columns, kLanes<T>), share = num_tiles(blocks, parallel.num_threads);
  parallel(num_tiles(blocks, share), [&](int64_t task) {
    const auto panel = reinterpret_cast<Operand<T>*>(workspace + task * lanes_workspace(p));
    const int64_t begin = task * share * kLanes<T>;
    const Range columns = {begin, min(f.columns, begin + share * kLanes<T>)};
    for (int64_t group = 0; group < num_groups<T>(p.rows); ++group) {
      const Range rows = group_of<T>(p.rows, group);
      with_rows<kMostVectors>(num_tiles(rows.end - rows.begin, kLanes<T>), [&](auto vectors) {
        columns_of_lanes<vectors.value>(p, f, static_cast<const B*>(f.b), rows, columns, panel);
      });
    }
  });
}

// b that lies along the terms, as a weight (out, in) does, is read where it lies for few rows, if they are not too
// short: a sum across lanes follows every dot product.
template <class T>
bool is_of_few_rows(const ProductParams<T>& p) {
  constexpr int64_t kShort = 16;
  return p.b_transposed && !p.a_transposed && p.rows <= few_rows(p.terms, sizeof(T), kVectorBytes) && p.terms >= kShort;
}

template <class T>
void product_of_few_rows(const ProductParams<T>& p, const ProductFactor& f, const Parallel& parallel) {
  constexpr int kColumns = 4 * kDotUnits<1>;
  Team{parallel, 1}.each(num_tiles(f.columns, kColumns), INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
    with_type<T>(f.b, f.b_type, [&](const auto* b) {
      columns_of_product<T>(
          p.rows, [&](int64_t row) { return static_cast<const T*>(p.a) + row * p.terms; }, b, p.terms, begin * kColumns,
          min(f.columns, end * kColumns), [&](int64_t row) { return static_cast<T*>(f.y) + row * f.columns; });
    });
  });
}

// Of few terms, as the gradient of a weight in one step of few rows has it, the product is little more than the writing
// of y: one row of it after the other, whose elements of a stay in registers. (Two rows at a time take 1.1 to 1.4 times
// as long where y comes from memory, and tiles of several rows up to 2.4 times.)
constexpr int kMostTerms = 8;
template <class T>
bool is_of_few_terms(const ProductParams<T>& p) {
  return !p.b_transposed && p.terms > 0 && p.terms <= kMostTerms &&
         every_factor(p, [](const ProductFactor& f) { return !f.adds && !is_half(f.b_type); });
}

// A row of y: K elements of a, `distance` apart, times b (K, columns).
template <int K, class T, class Y>
LSTM_FUSED_INLINE void row_of_few_terms(const T* a, int64_t distance, const T* b, Y* y, int64_t columns) {
  Vec<T> factors[K];
  for (int k = 0; k < K; ++k) factors[k] = Vec<T>{} + a[k * distance];
  const auto columns_from = [&](int64_t n, auto lanes) {
    Vec<T> sum = factors[0] * load(b + n, lanes.value);
#pragma GCC unroll 8
    for (int k = 1; k < K; ++k) sum = multiply_add(factors[k], load(b + k * columns + n, lanes.value), sum);
    store(y + n, sum, lanes.value);
  };
  int64_t n = 0;
  for (; n + kLanes<T> <= columns; n += kLanes<T>) columns_from(n, Constant<kLanes<T>>{});
  if (n < columns) columns_from(n, Variable{static_cast<int>(columns - n)});
}

template <class T>
void product_of_few_terms(const ProductParams<T>& p, const ProductFactor& f, const Parallel& parallel) {
  const int64_t columns = f.columns, of_row = p.a_transposed ? 1 : p.terms, of_term = p.a_transposed ? p.rows : 1;
  const T *const a = static_cast<const T*>(p.a), *const b = static_cast<const T*>(f.b);
  Team{parallel, 1}.each(p.rows, INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
    with_type<T>(f.y, f.y_type, [&](auto* y) {
      with_rows<kMostTerms>(p.terms, [&](auto terms) {
        for (int64_t row = begin; row < end; ++row)
          row_of_few_terms<terms.value>(a + row * of_row, of_term, b, y + row * columns, columns);
      });
    });
  });
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
