// A register-blocked product  acc (R rows, 2 vectors) = A (R, K) * panel (K, 2 vectors), and the packing of weights
// into such panels: a panel is read front to back, whole vectors at a time, whatever the width of the matrix.
#pragma once

#include "cpu/isa/pairs.h"
#include "cpu/isa/shuffle.h"

namespace lstm_fused::LSTM_FUSED_ISA {

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t num_tiles(int64_t size, int64_t tile) { return size / tile + (size % tile != 0); }

template <class T>
constexpr int kPanelWidth = kTileVectors * kLanes<T>;

template <class T>
inline int64_t panel_size(int64_t k_size) {
  return k_size * kPanelWidth<T>;
}

// The valid lanes of the vector that starts at column `begin` of a matrix of `width` columns.
template <class T>
inline int valid_lanes(int64_t begin, int64_t width) {
  return begin >= width ? 0 : static_cast<int>(min(kLanes<T>, width - begin));
}

constexpr int kWideRows = 3;  // of a tile of wide_vectors(), at most
// One row has registers for as many sums as hide the latency of one.
constexpr int wide_vectors(int64_t rows) { return rows == 1 ? 8 : kWideVectors; }

// Most terms of one running sum; an element is the sum of such sums. The error of a sum grows with the root of its
// terms: one of all 4H terms has 2.7 times torch.nn.LSTM's, of the gradient of h_0 at H = 1024. Fewer where every
// product is rounded as well.
constexpr int64_t kChain = kMultipliesAndAdds ? 64 : 16;
// Of those of gates, I or P terms, whose errors sigmoid and tanh make smaller: at H of 256 to 2048 they are 0.3 to 0.8
// of torch.nn.LSTM's, with chains of 64 0.2 to 0.5, which take longer.
constexpr int64_t kGateChain = 4 * kChain;

// How far ahead of the product a panel is fetched, in its rows, and how many vectors at a time.
constexpr int kPrefetchRows = LSTM_FUSED_NEON ? 16 : 4;
constexpr int kFetchedVectors = LSTM_FUSED_NEON ? kTileVectors : 1;
// Of packed weights, which no cache but the third may have, by their bytes: 2 KB in backward, whose panels are 4H rows
// long, 8 KB elsewhere. (NEON: what 16 rows of floats are, not measured.)
template <class E, class W = E>
constexpr int kNearRows = (LSTM_FUSED_NEON ? 512 : 2048) / (kPanelWidth<E> * sizeof(W));
template <class E, class W = E>
constexpr int kFarRows = (LSTM_FUSED_NEON ? 512 : 8192) / (kPanelWidth<E> * sizeof(W));

template <class T, int R, int V = kTileVectors>
struct Accumulators {
  Vec<T> at[R][V];
};

// The rows of A. several(r, k) is what one load brings where an instruction multiplies by a lane of a vector: kTerms
// terms of row r from k on, or term k of kRows rows from r on; elsewhere it is a single element, as one(r, k) is.
template <class E, int R>
struct RowsApart {
  static constexpr int kRows = 1, kTerms = kMultipliesByLane ? kLanes<E> : 1;
  const E* row[R];

  explicit RowsApart(const E* const* rows) {
    for (int r = 0; r < R; ++r) row[r] = rows[r];
  }
  LSTM_FUSED_INLINE E one(int r, int64_t k) const { return row[r][k]; }
  LSTM_FUSED_INLINE auto several(int r, int64_t k) const {
    if constexpr (kTerms > 1)
      return load_whole(row[r] + k);
    else
      return one(r, k);
  }
};

// (K, R); a vector may reach past the last row.
template <class E, int R>
struct RowsSideBySide {
  static constexpr int kRows = kMultipliesByLane ? kLanes<E> : 1, kTerms = 1;
  const E* elements;

  LSTM_FUSED_INLINE E one(int r, int64_t k) const { return elements[k * R + r]; }
  LSTM_FUSED_INLINE auto several(int r, int64_t k) const {
    if constexpr (kRows > 1)
      return load_whole(elements + k * R + r);
    else
      return one(r, k);
  }
};

// Either, an element at a time.
template <class A>
struct OneByOne {
  static constexpr int kRows = 1, kTerms = 1;
  const A& rows;
  LSTM_FUSED_INLINE auto several(int r, int64_t k) const { return rows.one(r, k); }
};

// A vector of a panel, or, where that is part of a matrix and elements are pairs, of the pairs of two of its rows,
// `distance` apart; 0: the second one is zero.
template <class E, class W>
LSTM_FUSED_INLINE auto load_element(const W* place, int64_t distance) {
  if constexpr (kTerms<E> == 1 || std::is_same_v<W, E>)
    return load(place);
  else
    return pairs_of(place, distance > 0 ? place + distance : nullptr, kLanes<E>);
}

template <class E, class W>
LSTM_FUSED_INLINE void fetch_element(const W* place, int64_t distance) {
  __builtin_prefetch(place);
  if constexpr (kTerms<E> > 1 && !std::is_same_v<W, E>) __builtin_prefetch(place + distance);
}

// Fetches what comes next from the third-level cache into the second, `step` bytes on for each row of a panel, while a
// product runs: where it would begin with reading a panel as fast as it multiplies, a cache that is shared does not
// always keep up.
struct Spread {
  const char* place;
  int64_t step;

  LSTM_FUSED_INLINE void fetch() {
    __builtin_prefetch(place, 0, 2);
    place += step;
  }
};
constexpr int kSpread = -1;  // as `fetched_rows`

// A panel that is part of a matrix, whose type it has, has the distance between its rows, or between pairs of them.
// More vectors than a panel's are those of the panels that follow, `next_panel` apart. A running sum has `chain`
// elements. Fetching `fetched_rows` ahead, or 0, is for what comes from afar, or where the rows give it time; kSpread:
// as `spread` says, which goes on. Where an element of A is a pair, k counts pairs, and of an odd last one the second
// term, zero in the panel, is not read.
template <class E, int R, int V = kTileVectors, int fetched_rows = kPrefetchRows, class A, class W>
LSTM_FUSED_INLINE Accumulators<Wide<E>, R, V> multiply_elements(const A& a, int64_t terms, const W* panel,
                                                                int64_t panel_stride, int64_t next_panel, int64_t chain,
                                                                Spread* spread = nullptr) {
  using T = Wide<E>;
  const auto place = [&](int v) { return panel + v / kTileVectors * next_panel + v % kTileVectors * kLanes<E>; };
  constexpr int kAhead = fetched_rows * (std::is_same_v<W, E> ? 1 : kTerms<E>);
  const int64_t k_size = terms / kTerms<E>;
  Accumulators<T, R, V> result;
  [[maybe_unused]] Spread fetched = fetched_rows == kSpread ? *spread : Spread{};
  int64_t k = 0;
  do {
    const bool first = k == 0;
    const int64_t end = min(k_size, k + chain);
    Vec<T> acc[R][V];  // not the result itself: whose address escapes does not live in registers
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) acc[r][v] = Vec<T>{};
    const auto weights = [&](int j, int v) __attribute__((always_inline)) {
      if (fetched_rows == kSpread && v == 0) fetched.fetch();
      if (fetched_rows > 0 && v % kFetchedVectors == 0)
        fetch_element<E>(place(v) + (j + kAhead) * panel_stride, panel_stride / kTerms<E>);
      return load_element<E>(place(v) + j * panel_stride, panel_stride / kTerms<E>);
    };
    // The next terms, as many as `rows` gives together: with one, vectors of W stay in registers while the rows pass
    // by, or where the rows are fewer, those; with several those of the rows.
    const auto add = [&](const auto& rows) __attribute__((always_inline)) {
      using Rows = std::remove_cvref_t<decltype(rows)>;
      constexpr int kRows = Rows::kRows, kTogether = Rows::kTerms;
      if constexpr (kTogether == 1 && kRows == 1 && R < V) {
        E x[R];
        for (int r = 0; r < R; ++r) x[r] = rows.several(r, k);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const auto w = weights(0, v);
          for (int r = 0; r < R; ++r) acc[r][v] = multiply_add(x[r], w, acc[r][v]);
        }
      } else if constexpr (kTogether == 1) {
        Vec<T> w[V];
        for (int v = 0; v < V; ++v) w[v] = weights(0, v);
        for (int first = 0; first < R; first += kRows) {
          const auto x = rows.several(first, k);
          for (int r = first; r < R && r < first + kRows; ++r)
            for (int v = 0; v < V; ++v) acc[r][v] = multiply_add(lane<E>(x, r - first), w[v], acc[r][v]);
        }
      } else {
        Vec<T> x[R];
        for (int r = 0; r < R; ++r) x[r] = rows.several(r, k);
// Unrolled by itself, that much code would leave the sums in memory.
#pragma GCC unroll 16
        for (int j = 0; j < kTogether; ++j)
#pragma GCC unroll 16
          for (int v = 0; v < V; ++v) {
            const Vec<T> w = weights(j, v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[r][v] = multiply_add(lane<E>(x[r], j), w, acc[r][v]);
          }
      }
      k += kTogether;
      panel += kTogether * panel_stride;
    };
    if constexpr (A::kTerms > 1) {
      while (k + A::kTerms <= end) add(a);
      while (k < end) add(OneByOne<A>{a});
    } else {
#pragma GCC unroll 2  // the pointers to 14 rows do not fit the registers: each that is fetched then serves two k
      while (k < end) add(a);
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) result.at[r][v] = first ? acc[r][v] : result.at[r][v] + acc[r][v];
  } while (k < k_size);
  if constexpr (fetched_rows == kSpread) *spread = fetched;
  if constexpr (kTerms<E> > 1)
    if (terms % kTerms<E> != 0)
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
          result.at[r][v] = multiply_add(E{a.one(r, k).first, {}}, load_element<E>(place(v), 0), result.at[r][v]);
  return result;
}

// Of rows that lie apart.
template <class E, int R, int V = kTileVectors, int fetched_rows = kPrefetchRows, class W>
LSTM_FUSED_INLINE Accumulators<Wide<E>, R, V> multiply(const E* const* a, int64_t terms, const W* panel,
                                                       int64_t panel_stride = V * kLanes<E>,
                                                       int64_t next_panel = kPanelWidth<E>, int64_t chain = kChain,
                                                       Spread* spread = nullptr) {
  return multiply_elements<E, R, V, fetched_rows>(RowsApart<E, R>(a), terms, panel, panel_stride, next_panel, chain,
                                                  spread);
}

template <int N>
struct Constant {
  static constexpr int value = N;
};
struct Variable {
  int value;
};

// Calls f with the number of rows as a compile-time constant, 1 <= rows <= R.
template <int R, class F>
LSTM_FUSED_INLINE void with_rows(int64_t rows, F&& f) {
  if constexpr (R > 1) {
    if (rows < R) return with_rows<R - 1>(rows, f);
  }
  f(Constant<R>{});
}

// Calls f with the number of lanes: a constant for whole vectors, so that nearly all loads and stores are single
// instructions, and a variable for the last vector of a row.
template <class T, class F>
LSTM_FUSED_INLINE void with_lanes(int lanes, F&& f) {
  if (lanes == kLanes<T>)
    f(Constant<kLanes<T>>{});
  else if (lanes > 0)
    f(Variable{lanes});
}

// Splits `count` rows into tiles as even as possible, f(first, rows): 20 rows in tiles of 14 become 10 + 10, not 14
// + 6.
template <class F>
LSTM_FUSED_INLINE void for_row_tiles(int64_t count, F&& f) {
  const int64_t tiles = num_tiles(count, kTileRows);
  for (int64_t tile = 0, first = 0; tile < tiles; ++tile) {
    const int64_t rows = (count - first + tiles - tile - 1) / (tiles - tile);
    with_rows<kTileRows>(rows, [&](auto constant) { f(first, constant); });
    first += rows;
  }
}

// An element of a panel is a sum's or as large.
template <class E>
LSTM_FUSED_INLINE void store_bits(E* panel, Vec<Wide<E>> v) {
  std::memcpy(panel, &v, sizeof(v));
}

// The panel of columns begin ... begin + 2 vectors of matrix (K, width); zero past the width. What is read comes from
// afar, and rows are too far apart for the hardware to fetch them ahead.
template <class E, class W>
void pack_columns(const W* matrix, int64_t terms, int64_t width, int64_t begin, E* panel) {
  constexpr int64_t kAhead = 16;
  int valid[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) valid[v] = valid_lanes<E>(begin + v * kLanes<E>, width);
  for (int64_t k = 0; k < terms; k += kTerms<E>, panel += kPanelWidth<E>)
    for (int v = 0; v < kTileVectors; ++v) {
      const W* const place = matrix + k * width + begin + v * kLanes<E>;
      for (int term = 0; term < kTerms<E>; ++term) __builtin_prefetch(place + (kAhead + term) * width);
      if constexpr (kTerms<E> > 1)
        store_bits(panel + v * kLanes<E>, pairs_of(place, k + 1 < terms ? place + width : nullptr, valid[v]));
      else
        store_bits(panel + v * kLanes<E>, load(place, valid[v]));
    }
}

// V vectors of a panel whose rows are `stride` apart: lane j at k is row(j)[k], for as many lanes as there are `rows`,
// a Constant or a Variable, zero past them. Where rows are shorter than the vectors, each begins in the zeros of the
// one before it. What is read comes from afar, a line of every row at a time.
template <class E, int V, class Rows, class RowOf>
void pack_rows_as_columns(Rows rows, int64_t terms, E* panel, int64_t stride, RowOf&& row) {
  constexpr int64_t kAhead = 2 * kLanes<E>;
  const int64_t k_size = num_tiles(terms, kTerms<E>);
  const auto pack = [&](int64_t k, auto columns) __attribute__((always_inline)) {
    Vec<Wide<E>> squares[V][kLanes<E>] = {};
#pragma GCC unroll 32
    for (int lane = 0; lane < V * kLanes<E>; ++lane) {
      if (lane >= rows.value) break;
      Vec<Wide<E>>& place = squares[lane / kLanes<E>][lane % kLanes<E>];
      __builtin_prefetch(row(lane) + (k + kAhead) * kTerms<E>);
      if constexpr (kTerms<E> > 1)
        place = load_pairs(row(lane) + k * kTerms<E>, terms - k * kTerms<E>);
      else
        place = load(row(lane) + k, columns.value);
    }
    for (auto& square : squares) transpose<Wide<E>>(square);
#pragma GCC unroll 16
    for (int n = 0; n < kLanes<E>; ++n)
      for (int v = 0; v < V && n < columns.value; ++v)
        store_bits(panel + (k + n) * stride + v * kLanes<E>, squares[v][n]);
  };
  int64_t k = 0;
  for (; k + kLanes<E> <= k_size; k += kLanes<E>) pack(k, Constant<kLanes<E>>{});
  if (k < k_size) pack(k, Variable{static_cast<int>(k_size - k)});
}

// The same of `valid` rows, mostly as many as there are lanes.
template <class E, int V, class RowOf>
void pack_transposed(RowOf&& row, int64_t terms, int valid, E* panel, int64_t stride) {
  if (valid == V * kLanes<E>)
    pack_rows_as_columns<E, V>(Constant<V * kLanes<E>>{}, terms, panel, stride, row);
  else
    pack_rows_as_columns<E, V>(Variable{valid}, terms, panel, stride, row);
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
