// y = a b: the projection of the input, and in backward the gradients of the input and of the weights. Rows of a are
// packed a block at a time, which stays in the second-level cache while packed panels of b pass by. An element is a sum
// of running sums whose lengths depend on the sizes of the matrices alone: neither the number of threads, nor their
// shares, nor where the matrices lie changes a bit of it.
#include "cpu/isa/kernels.h"
#include "cpu/isa/small_product.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

// A block of a stays in the second-level cache, panels of b in the third.
constexpr int64_t kBlockTerms = kRoundedTerms, kBlockElements = 8 * kTileRows * kBlockTerms;
constexpr int64_t kBlockPanels = (2 << 20) / (kBlockTerms * kTileVectors * kVectorBytes);

// How far ahead a packed panel is fetched. Where a row of it is a single line, the hardware follows by itself, and the
// instructions cost 2 to 4 % (AVX2, Zen 3).
constexpr int kFetchedRows = kVectorBytes == 32 ? 0 : kPrefetchRows;

// What `terms` neighbouring terms of a row of a or a column of b are packed into.
template <class T>
int64_t num_elements(int64_t terms) {
  return num_tiles(terms, kTerms<Operand<T>>);
}

// Of some tiles of rows and many terms, b is read in the order in which it lies: as many rows of it as a running sum
// has terms by all columns, then the next ones, whose product is added to y.
template <class T>
bool adds_in_place(const ProductParams<T>& p) {
  constexpr int64_t kMostRows = 48, kLeastTerms = 512;
  if (kMultipliesPairs || p.a_transposed || p.b_transposed) return false;
  return kTileRows < p.rows && p.rows <= kMostRows && p.terms >= kLeastTerms &&
         every_factor(p, [](const ProductFactor& f) { return !is_half(f.y_type); });
}

// The blocks have as even a number of terms as whole running sums allow: each but the first adds to y, a pass over it.
template <class T>
int64_t block_terms(const ProductParams<T>& p) {
  if (adds_in_place(p)) return kChain;
  const int64_t blocks = num_tiles(p.terms, kBlockTerms * kTerms<Operand<T>>);
  return blocks > 1 ? num_tiles(num_tiles(p.terms, blocks), kChain) * kChain : blocks == 1 ? p.terms : 1;
}

// b is read where it lies where to pack it would take longer than to multiply by it: for the rows of one tile, several
// panels at once if they are few; and for few terms, whose product is mostly the writing of y.
template <class T>
bool reads_in_place(const ProductParams<T>& p) {
  constexpr int64_t kFewTerms = kMultipliesPairs ? 2 : 32;  // pairs are packed, or another set's product
  return !p.b_transposed && (p.rows <= kTileRows || p.terms < kFewTerms || adds_in_place(p));
}

// So few terms that most of the time y is written, a tile's rows from end to end where they are a page or longer: panel
// by panel it would be in pieces, each in a page of its own. Low tiles would read the panels too often.
template <class T>
bool writes_whole_rows(const ProductParams<T>& p) {
  constexpr int64_t kPage = 4096, kColumnsPerTerm = 32;
  return kVectorBytes == 64 && !p.b_transposed && every_factor(p, [&](const ProductFactor& f) {
           const int64_t bytes = f.columns * (is_half(f.y_type) ? 2 : sizeof(T));
           return bytes >= kPage && f.columns >= kColumnsPerTerm * p.terms;
         });
}

template <class T>
int64_t rows_of_block(const ProductParams<T>& p) {
  if (adds_in_place(p)) return p.rows;
  if (reads_in_place(p)) return p.rows <= kTileRows ? kTileRows : kWideRows;
  if (writes_whole_rows(p)) return kTileRows;
  return kBlockElements / num_elements<T>(block_terms(p)) / kTileRows * kTileRows;
}

template <class T>
int64_t num_panels(const ProductFactor& factor) {
  return num_tiles(factor.columns, kPanelWidth<T>);
}

// Of all b.
template <class T>
int64_t num_panels(const ProductParams<T>& p) {
  int64_t panels = 0;
  for (int n = 0; n < p.num_factors(); ++n) panels += num_panels<T>(p.factors[n]);
  return panels;
}

// A thread's: packed rows of a, then packed panels of b. The first block of a packs the panels, as it needs them, for
// all; where it is the only one, they need the place of one.
template <class T>
struct Workspace {
  int64_t block_rows;
  bool keeps_panels;
  int64_t panels_together;  // those that pass by a block
  int64_t panels, size;

  explicit Workspace(const ProductParams<T>& p)
      : block_rows(rows_of_block(p)),
        keeps_panels(!reads_in_place(p) && p.rows > block_rows),
        panels_together(keeps_panels ? min(kBlockPanels, num_panels(p)) : num_panels(p)) {
    const int64_t line = 64 / sizeof(T), elements = num_elements<T>(block_terms(p));
    panels =
        num_tiles(min(block_rows, p.rows) * elements + kLanes<T>, line) * line;  // with what the last row leaves over
    size = panels + panel_size<T>(elements) * (keeps_panels ? panels_together : 1);
  }
};

// Terms of one running sum. The gradient of a weight has as many as there are rows in all steps. torch.nn.LSTM has a
// sum for each step, and adds those up one by one: at best both are the root of all rows, so that ours are as long.
template <class T>
int64_t chain_of(const ProductParams<T>& p) {
  if (!p.a_transposed) return kChain;
  int64_t chain = 16;
  while (chain < kChain && (chain * chain < p.terms || chain < p.batch)) chain *= 2;
  return chain;
}

template <class T>
class Product {
  using E = Operand<T>;
  template <int R>
  static constexpr int num_vectors = (R + kLanes<E> - 1) / kLanes<E>;

 public:
  Product(const ProductParams<T>& params, T* workspace)
      : p(params), layout(params), packed_rows(reinterpret_cast<E*>(workspace)) {}

  // Rows [m_begin, m_end) and the columns of panels [begin, end).
  void run(int64_t m_begin, int64_t m_end, int64_t begin, int64_t end) const {
    Block block = {};
    for (; block.term == 0 || block.term < p.terms; block.term += block_terms(p)) {
      block.terms = min(block_terms(p), p.terms - block.term);
      for (block.panel = begin; block.panel < end; block.panel += layout.panels_together) {
        const int64_t last = min(end, block.panel + layout.panels_together);
        for (block.row = m_begin; block.row < m_end; block.row += layout.block_rows) {
          block.rows = min(layout.block_rows, m_end - block.row);
          block.packs_panels = !layout.keeps_panels || block.row == m_begin;
          pack_rows(block);
          for_panels(block, last);
        }
      }
    }
  }

 private:
  struct Block {
    int64_t row, rows, panel, term, terms;
    bool packs_panels;
  };

  // A block's rows by the panels up to `end`: those of one b, then those of the next.
  void for_panels(const Block& block, int64_t end) const {
    int64_t first = 0;  // of b's panels
    for (int f = 0; f < p.num_factors(); ++f) {
      const ProductFactor& factor = p.factors[f];
      const int64_t panels = num_panels<T>(factor);
      const int64_t n_end = min(factor.columns, (end - first) * kPanelWidth<T>);
      for (int64_t n = (block.panel > first ? block.panel - first : 0) * kPanelWidth<T>; n < n_end;)
        n += columns(block, factor, n, n_end, first + n / kPanelWidth<T>);
      first += panels;
    }
  }

  // Tile by tile, a tile's rows side by side.
  void pack_rows(const Block& block) const {
    with_factor_type<T>(p.a, p.a_type, [&](const auto* a) {
      if (p.a_transposed) return pack_rows_from_columns(block, a + block.term * p.rows + block.row);
      for_row_tiles(block.rows, [&](int64_t first, auto rows) {
        constexpr int R = rows.value;
        pack_rows_as_columns<E, num_vectors<R>>(rows, block.terms, packed_tile(block, first), R, [&](int r) {
          return a + (block.row + first + r) * p.terms + block.term;
        });
      });
    });
  }

  // The same of a (terms, rows): some terms of all tiles, then the next ones. A line of it is part of several tiles,
  // and those of more terms, where they are pages apart, would have the same place in a cache.
  template <class A>
  void pack_rows_from_columns(const Block& block, const A* a) const {
    constexpr int64_t kTogether = 8;
    for (int64_t begin = 0; begin < block.terms; begin += kTogether)
      for_row_tiles(block.rows, [&](int64_t first, auto rows) {
        constexpr int R = rows.value;
        const int64_t end = min(block.terms, begin + kTogether);
        const A* from = a + begin * p.rows + first;
        E* to = packed_tile(block, first) + begin / kTerms<E> * R;
        for (int64_t k = begin; k < end; k += kTerms<E>, to += R, from += kTerms<E> * p.rows) {
          __builtin_prefetch(from + kTogether * p.rows);
          if constexpr (kTerms<E> == 1) {
            std::memcpy(to, from, R * sizeof(E));
          } else {
            const Vec<T> pairs = pairs_of(from, k + 1 < block.terms ? from + p.rows : nullptr, R);
            std::memcpy(to, &pairs, R * sizeof(E));
          }
        }
      });
  }
  E* packed_tile(const Block& block, int64_t first) const { return packed_rows + first * num_elements<T>(block.terms); }

  // A block's rows by the columns of b from n on, of the panel-th panel and perhaps some more; how many they were.
  int64_t columns(const Block& block, const ProductFactor& f, int64_t n, int64_t n_end, int64_t index) const {
    if (reads_in_place(p)) {
      if (block.rows <= kWideRows && n + wide_vectors(block.rows) * kLanes<T> <= n_end)
        return columns_in_place<true>(block, f, n);
      if (n + kPanelWidth<T> <= n_end) return columns_in_place<false>(block, f, n);
    }
    const int64_t place = layout.keeps_panels ? index - block.panel : 0;
    E* const panel = packed_rows + layout.panels + panel_size<T>(place * num_elements<T>(block.terms));
    if (block.packs_panels) pack_panel(block, f, n, panel);
    for_row_tiles(block.rows, [&](int64_t first, auto rows) {
      tile<rows.value, kTileVectors, kFetchedRows>(block, f, first, n, static_cast<const E*>(panel), kPanelWidth<T>);
    });
    return kPanelWidth<T>;
  }

  template <bool kWide>
  int64_t columns_in_place(const Block& block, const ProductFactor& f, int64_t n) const {
    with_type<T>(f.b, f.b_type, [&](const auto* b) {
      const auto by_rows = [&](int64_t first, auto rows) {
        constexpr int V = kWide ? wide_vectors(rows.value) : kTileVectors;
        tile<rows.value, V, kPrefetchRows>(block, f, first, n, b + block.term * f.columns + n, kTerms<E> * f.columns);
      };
      if constexpr (kWide)
        with_rows<kWideRows>(block.rows, [&](auto rows) { by_rows(0, rows); });
      else
        for_row_tiles(block.rows, by_rows);
    });
    return (kWide ? wide_vectors(block.rows) : kTileVectors) * kLanes<T>;
  }

  void pack_panel(const Block& block, const ProductFactor& f, int64_t n, E* panel) const {
    with_type<T>(f.b, f.b_type, [&](const auto* b) {
      if (!p.b_transposed) return pack_columns(b + block.term * f.columns, block.terms, f.columns, n, panel);
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t column = n + v * kLanes<T>;
        pack_transposed<E, 1>([&](int lane) { return b + (column + lane) * p.terms + block.term; }, block.terms,
                              valid_lanes<T>(column, f.columns), panel + v * kLanes<T>, kPanelWidth<T>);
      }
    });
  }

  template <int R, int V, int kFetched, class P>
  __attribute__((noinline)) void tile(const Block& block, const ProductFactor& f, int64_t first, int64_t n,
                                      const P* panel, int64_t stride) const {
    const int64_t row = block.row + first;
    with_type<T>(f.y, f.y_type, [&](auto* y) { fetch<R, V>(y + row * f.columns + n, f.columns); });
    const E* const a = packed_tile(block, first);
    const Accumulators<T, R, V> acc = multiply_elements<E, R, V, kFetched>(
        RowsSideBySide<E, R>{a}, block.terms, panel, stride, kTileVectors * kLanes<T>, chain_of(p));
    put<V>(acc.at, f, row, R, n, block.term > 0 || f.adds);
  }

  // y is fetched while its elements are summed up.
  template <int R, int V, class Y>
  static LSTM_FUSED_INLINE void fetch(const Y* y, int64_t columns) {
    constexpr int kLine = 64 / sizeof(Y);
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < V * kLanes<T>; n += kLine) __builtin_prefetch(y + r * columns + n, 1);
  }

  // The tile of y, whose first column is `n`. One function for tiles of all heights: in each of them it would be most
  // of the library.
  template <int V>
  static __attribute__((noinline)) void put(const Vec<T> (*sums)[V], const ProductFactor& f, int64_t row, int rows,
                                            int64_t n, bool adds) {
    with_type<T>(f.y, f.y_type, [&](auto* y) {
      const int64_t columns = f.columns;  // here, so that no store could change it
      const auto put_row = [&](int r, auto adds, auto lanes_of) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          auto* const out = y + (row + r) * columns + n + v * kLanes<T>;
          with_lanes<T>(lanes_of(v), [&](auto lanes) {
            store_sum(out, adds.value ? load(out, lanes.value) + sums[r][v] : sums[r][v], lanes.value);
          });
        }
      };
      const auto put_all = [&](auto adds) {
        if (n + V * kLanes<T> <= columns)
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) put_row(r, adds, [](int) { return kLanes<T>; });
        else
          for (int r = 0; r < rows; ++r)
            put_row(r, adds, [&](int v) { return valid_lanes<T>(n + v * kLanes<T>, columns); });
      };
      adds ? put_all(Constant<1>{}) : put_all(Constant<0>{});
    });
  }

  const ProductParams<T>& p;
  const Workspace<T> layout;
  E* const packed_rows;
};

// Where pairs would not pay, or there are none, it is a product of a set without them.
template <class T>
bool is_of_pairs(const ProductParams<T>& p) {
  if (!kMultipliesPairs || (is_of_few_rows(p) && !is_of_lanes(p))) return false;
  return p.b_transposed || p.terms > 1 || p.a_type == DType::kBFloat16;
}

}  // namespace

template <class T>
int64_t product_workspace(const ProductParams<T>& p, int64_t num_threads) {
  if constexpr (kMultipliesPairs)
    if (!is_of_pairs(p)) return avx512::kInstructionSet.float32.product_workspace(p, num_threads);
  if (is_of_lanes(p)) return num_threads * lanes_workspace(p);
  return is_of_few_rows(p) ? 0 : num_threads * Workspace<T>(p).size;
}

template <class T>
void product(const ProductParams<T>& p, T* workspace, const Parallel& parallel) {
  if constexpr (kMultipliesPairs)
    if (!is_of_pairs(p)) return avx512::kInstructionSet.float32.product(p, workspace, parallel);
  const auto each_factor = [&](auto run) {
    for (int n = 0; n < p.num_factors(); ++n) run(p, p.factors[n], parallel);
  };
  if (is_of_lanes(p))
    return each_factor(
        [&](const auto& p, const auto& f, const auto& parallel) { product_of_lanes<T>(p, f, workspace, parallel); });
  if (!kMultipliesPairs && is_of_few_rows(p)) return each_factor(product_of_few_rows<T>);
  if (!kMultipliesPairs && is_of_few_terms(p)) return each_factor(product_of_few_terms<T>);
  // Threads share the columns, so that each packs panels of its own; or the rows, where those divide more evenly.
  const int64_t threads = parallel.num_threads, panels = num_panels(p), tiles = num_tiles(p.rows, kTileRows);
  const bool by_columns = num_tiles(panels, threads) * tiles <= num_tiles(tiles, threads) * panels;
  const int64_t total = by_columns ? panels : p.rows, step = by_columns ? 1 : kTileRows;
  const int64_t share = num_tiles(num_tiles(total, step), threads) * step;
  parallel(num_tiles(total, share > 0 ? share : 1), [&](int64_t task) {
    const Product<T> product(p, workspace + task * Workspace<T>(p).size);
    const int64_t begin = task * share, end = min(total, begin + share);
    by_columns ? product.run(0, p.rows, begin, end) : product.run(begin, end, 0, panels);
  });
}

template int64_t product_workspace(const ProductParams<float>&, int64_t);
template void product(const ProductParams<float>&, float*, const Parallel&);
#if !LSTM_FUSED_PAIRS
template int64_t product_workspace(const ProductParams<double>&, int64_t);
template void product(const ProductParams<double>&, double*, const Parallel&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
