// y = a b: the projection of the input, and in backward the gradients of the input and of the weights. Rows of a are
// packed a block at a time, which stays in the second-level cache while packed panels of b pass by. An element is a sum
// of running sums whose lengths depend on the sizes of the matrices alone: neither the number of threads, nor their
// shares, nor where the matrices lie changes a bit of it.
#include "cpu/isa/dots.h"
#include "cpu/isa/kernels.h"
#include "cpu/isa/rows.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

// A block of a stays in the second-level cache, panels of b in the third.
constexpr int64_t kBlockTerms = 512, kBlockElements = 8 * kTileRows * kBlockTerms, kBlockPanels = 32;

// What `terms` neighbouring terms of a row of a or a column of b are packed into.
template <class T>
int64_t num_elements(int64_t terms) {
  return num_tiles(terms, kTerms<Operand<T>>);
}

// The blocks have as even a number of terms as whole running sums allow: each but the first adds to y, a pass over it.
template <class T>
int64_t block_terms(const ProductParams<T>& p) {
  const int64_t blocks = num_tiles(p.terms, kBlockTerms * kTerms<Operand<T>>);
  return blocks > 1 ? num_tiles(num_tiles(p.terms, blocks), kChain) * kChain : blocks == 1 ? p.terms : 1;
}

// b is read where it lies by a few rows at a time, and several panels of it at once, where to pack it would take longer
// than to multiply by it: for few rows; and for few terms, whose product is mostly the writing of y.
template <class T>
bool reads_in_place(const ProductParams<T>& p) {
  constexpr int64_t kFewTerms = 32;
  return !p.b_transposed && (p.rows <= kWideRows || p.terms < kFewTerms);
}

template <class T>
int64_t block_rows(const ProductParams<T>& p) {
  return reads_in_place(p) ? kWideRows : kBlockElements / num_elements<T>(block_terms(p)) / kTileRows * kTileRows;
}

// A thread's: packed rows of a, then packed panels of b. The first block of a packs the panels, as it needs them, for
// all; where it is the only one, they need the place of one.
template <class T>
struct Workspace {
  bool keeps_panels;
  int64_t columns;  // of b that pass by a block together
  int64_t row, panels, size;

  explicit Workspace(const ProductParams<T>& p)
      : keeps_panels(!reads_in_place(p) && p.rows > block_rows(p)),
        columns(keeps_panels ? kBlockPanels * kPanelWidth<T> : p.columns) {
    const int64_t line = 64 / sizeof(T), elements = num_elements<T>(block_terms(p));
    row = (num_tiles(elements, line) + 1) * line;  // rows a power of two apart would meet in one set of the cache
    panels = min(block_rows(p), p.rows) * row;
    const int64_t kept = keeps_panels ? min(kBlockPanels, num_tiles(p.columns, kPanelWidth<T>)) : 1;
    size = panels + panel_size<T>(elements) * kept;
  }
};

// b that lies along the terms, as a weight (out, in) does, is read where it lies for so few rows, if they are not too
// short: a sum across lanes follows every dot product.
template <class T>
bool is_of_few_rows(const ProductParams<T>& p) {
  constexpr int64_t kFewRows = 24, kShort = 16;
  return p.b_transposed && !p.a_transposed && p.rows <= kFewRows && p.terms >= kShort;
}

// Terms of one running sum. The gradient of a weight has as many as there are rows in all steps. torch.nn.LSTM has a
// sum for each step, and adds those up one by one: at best both are the root of all rows, so that ours are as long.
template <class T>
int64_t chain_of(const ProductParams<T>& p) {
  if (!p.a_transposed) return kChain;
  int64_t chain = 16;
  while (chain < kChain && (chain * chain < p.terms || chain < p.batch)) chain *= 2;
  return chain;
}

// Of a single term, as the gradient of a weight in one step of one row has it: no more than the writing of y.
template <class T>
void outer_product_row(const ProductParams<T>& p, int64_t row) {
  const T* const b = static_cast<const T*>(p.b);
  const T a = p.a[row];
  T* const y = p.y + row * p.columns;
  for (int64_t n = 0; n < p.columns; n += kLanes<T>)
    with_lanes<T>(valid_lanes<T>(n, p.columns),
                  [&](auto lanes) { store(y + n, a * load(b + n, lanes.value), lanes.value); });
}

// W is the type of b.
template <class T, class W>
class Product {
  using E = Operand<T>;

 public:
  Product(const ProductParams<T>& params, T* workspace)
      : p(params), b(static_cast<const W*>(params.b)), layout(params), packed_rows(reinterpret_cast<E*>(workspace)) {}

  // Rows [m_begin, m_end) and the columns of panels [begin, end).
  void run(int64_t m_begin, int64_t m_end, int64_t begin, int64_t end) const {
    const int64_t n_end = min(p.columns, end * kPanelWidth<T>);
    Block block = {};
    for (; block.term == 0 || block.term < p.terms; block.term += block_terms(p)) {
      block.terms = min(block_terms(p), p.terms - block.term);
      for (block.column = begin * kPanelWidth<T>; block.column < n_end; block.column += layout.columns) {
        const int64_t last = min(n_end, block.column + layout.columns);
        for (block.row = m_begin; block.row < m_end; block.row += block_rows(p)) {
          block.rows = min(block_rows(p), m_end - block.row);
          block.packs_panels = !layout.keeps_panels || block.row == m_begin;
          pack_rows(block);
          for (int64_t n = block.column; n < last;) n += columns(block, n, last);
        }
      }
    }
  }

 private:
  struct Block {
    int64_t row, rows, column, term, terms;
    bool packs_panels;
  };

  // Of a as (rows, terms), rows one by one; of a as (terms, rows), tile by tile, a tile's rows side by side.
  void pack_rows(const Block& block) const {
    if (!p.a_transposed) {
      for (int64_t r = 0; r < block.rows; ++r) {
        const T* const from = p.a + (block.row + r) * p.terms + block.term;
        E* const to = packed_rows + r * layout.row;
        if constexpr (kTerms<E> == 1)
          copy(to, from, block.terms);
        else  // whole vectors have room
          for (int64_t k = 0; k < block.terms; k += kTerms<E> * kLanes<E>)
            store_bits(to + k / kTerms<E>, load_pairs(from + k, block.terms - k));
      }
      return;
    }
    for_row_tiles(block.rows, [&](int64_t first, auto rows) {
      E* to = packed_tile(block, first);
      const T* from = p.a + block.term * p.rows + block.row + first;
      for (int64_t k = 0; k < block.terms; k += kTerms<E>, to += rows.value, from += kTerms<E> * p.rows)
        if constexpr (kTerms<E> == 1) {
          for (int r = 0; r < rows.value; ++r) to[r] = from[r];
        } else {
          const Tail<T> load(rows.value);
          const Vec<T> pairs = pairs_of(load(from), k + 1 < block.terms ? load(from + p.rows) : Vec<T>{});
          std::memcpy(to, &pairs, rows.value * sizeof(E));
        }
    });
  }
  E* packed_tile(const Block& block, int64_t first) const { return packed_rows + first * num_elements<T>(block.terms); }

  // A block's rows by the columns from n on, of a panel or several; how many they were.
  int64_t columns(const Block& block, int64_t n, int64_t n_end) const {
    if constexpr (kTerms<E> == 1)
      if (reads_in_place(p)) {
        const W* const place = b + block.term * p.columns + n;
        constexpr int64_t kWide = kWideVectors * kLanes<T>;
        if (n + kWide <= n_end) {
          with_rows<kWideRows>(block.rows,
                               [&](auto rows) { tile<rows.value, kWideVectors>(block, 0, n, place, p.columns); });
          return kWide;
        }
        if (n + kPanelWidth<T> <= n_end) {
          with_rows<kWideRows>(block.rows,
                               [&](auto rows) { tile<rows.value, kTileVectors>(block, 0, n, place, p.columns); });
          return kPanelWidth<T>;
        }
      }
    const int64_t column = layout.keeps_panels ? n - block.column : 0;
    E* const panel = packed_rows + layout.panels + column * num_elements<T>(block.terms);
    if (block.packs_panels) pack_panel(block, n, panel);
    for_row_tiles(block.rows, [&](int64_t first, auto rows) {
      tile<rows.value, kTileVectors>(block, first, n, static_cast<const E*>(panel), kPanelWidth<T>);
    });
    return kPanelWidth<T>;
  }

  void pack_panel(const Block& block, int64_t n, E* panel) const {
    if (p.b_transposed)
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t column = n + v * kLanes<T>;
        pack_transposed([&](int lane) { return b + (column + lane) * p.terms + block.term; }, block.terms,
                        valid_lanes<T>(column, p.columns), panel + v * kLanes<T>, kPanelWidth<T>);
      }
    else
      pack_columns(b + block.term * p.columns, block.terms, p.columns, n, panel);
  }

  // y is fetched while its elements are summed up.
  template <int R, int V, class P>
  __attribute__((noinline)) void tile(const Block& block, int64_t first, int64_t n, const P* panel,
                                      int64_t stride) const {
    const E* rows[R];
    for (int r = 0; r < R; ++r)
      rows[r] = p.a_transposed ? packed_tile(block, first) + r : packed_rows + (first + r) * layout.row;
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) __builtin_prefetch(p.y + (block.row + first + r) * p.columns + n + v * kLanes<T>, 1);
    const Accumulators<T, R, V> acc = multiply<E, R, V>(rows, block.terms, panel, p.a_transposed ? R : 1, stride,
                                                        kTileVectors * kLanes<T>, chain_of(p));
    const auto put = [&](int r, int v, int lanes) {
      T* const out = p.y + (block.row + first + r) * p.columns + n + v * kLanes<T>;
      store(out, block.term == 0 && !p.adds ? acc.at[r][v] : load(out, lanes) + acc.at[r][v], lanes);
    };
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v)
        if (n + V * kLanes<T> <= p.columns)
          put(r, v, kLanes<T>);
        else if (const int lanes = valid_lanes<T>(n + v * kLanes<T>, p.columns))
          put(r, v, lanes);
  }

  const ProductParams<T>& p;
  const W* const b;
  const Workspace<T> layout;
  E* const packed_rows;
};

// Where pairs would not pay, it is a product of a set without them.
template <class T>
bool is_of_pairs(const ProductParams<T>& p) {
  return kMultipliesPairs && !is_of_few_rows(p) && !reads_in_place(p);
}

}  // namespace

template <class T>
int64_t product_workspace(const ProductParams<T>& p, int64_t num_threads) {
  if constexpr (kMultipliesPairs)
    if (!is_of_pairs(p)) return avx512::kInstructionSet.float32.product_workspace(p, num_threads);
  return is_of_few_rows(p) ? 0 : num_threads * Workspace<T>(p).size;
}

template <class T>
void product(const ProductParams<T>& p, T* workspace, const Parallel& parallel) {
  if constexpr (kMultipliesPairs)
    if (!is_of_pairs(p)) return avx512::kInstructionSet.float32.product(p, workspace, parallel);
  const int64_t threads = parallel.num_threads, panels = num_tiles(p.columns, kPanelWidth<T>);
  with_weight<T>(p.b, p.b_type, [&](const auto* b) {
    using W = std::remove_cv_t<std::remove_pointer_t<decltype(b)>>;
    if (!kMultipliesPairs && is_of_few_rows(p)) {
      constexpr int kColumns = 4 * kDotUnits<1>;
      return Team{parallel, 1}.each(
          num_tiles(p.columns, kColumns), INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
            columns_of_product<T>(
                p.rows, [&](int64_t row) { return p.a + row * p.terms; }, b, p.terms, begin * kColumns,
                min(p.columns, end * kColumns), [&](int64_t row) { return p.y + row * p.columns; });
          });
    }
    if (p.terms == 1 && !p.adds && std::is_same_v<T, W>)
      return Team{parallel, 1}.each(p.rows, INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) outer_product_row(p, row);
      });
    // Threads share the columns, so that each packs panels of its own; or the rows, where those divide more evenly.
    const int64_t tiles = num_tiles(p.rows, kTileRows);
    const bool by_columns = num_tiles(panels, threads) * tiles <= num_tiles(tiles, threads) * panels;
    const int64_t total = by_columns ? panels : p.rows, step = by_columns ? 1 : kTileRows;
    const int64_t share = num_tiles(num_tiles(total, step), threads) * step;
    parallel(num_tiles(total, share > 0 ? share : 1), [&](int64_t task) {
      const Product<T, W> product(p, workspace + task * Workspace<T>(p).size);
      const int64_t begin = task * share, end = min(total, begin + share);
      by_columns ? product.run(0, p.rows, begin, end) : product.run(begin, end, 0, panels);
    });
  });
}

template <class T>
void sum_rows(const RowSumParams<T>& p, const Parallel& parallel) {
  Team{parallel, 1}.each(num_tiles(p.width, kLanes<T>), INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t n = begin * kLanes<T>; n < min(p.width, end * kLanes<T>); n += kLanes<T>)
      with_lanes<T>(valid_lanes<T>(n, p.width), [&](auto lanes) {
        Vec<T> total = {};
        if (p.adds) total = load(p.y + n, lanes.value);
        for (int64_t row = 0; row < p.num_rows;) {
          Vec<T> sum = {};
          for (const int64_t last = min(p.num_rows, row + kChain); row < last; ++row)
            sum += load(p.x + row * p.width + n, lanes.value);
          total += sum;
        }
        store(p.y + n, total, lanes.value);
      });
  });
}

template int64_t product_workspace(const ProductParams<float>&, int64_t);
template void product(const ProductParams<float>&, float*, const Parallel&);
#if !LSTM_FUSED_PAIRS
template int64_t product_workspace(const ProductParams<double>&, int64_t);
template void product(const ProductParams<double>&, double*, const Parallel&);
template void sum_rows(const RowSumParams<float>&, const Parallel&);
template void sum_rows(const RowSumParams<double>&, const Parallel&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
