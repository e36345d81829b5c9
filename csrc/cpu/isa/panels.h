// Rows times weights in panels, which were packed for this call (forward, the cell's variants) or once (a stream), as
// the type that is computed in or as a shorter one: where the weights lie and what their bytes are is all that differs.
#pragma once

#include "cpu/isa/layer.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// `distance` from one panel to the next, in elements.
template <class W>
struct Panels {
  const W* begin;
  int64_t distance;

  Panels from(int64_t panel) const { return {begin + panel * distance, distance}; }
};

// Of a block of units, one vector of each gate: i and f, g and o.
constexpr int kPanelsPerBlock = kNumGates / kTileVectors;

// Blocks of `vectors` vectors that few rows pass at once: one row by one panel would wait for its own sums.
constexpr int wide_blocks(int64_t rows, int vectors) {
  return wide_vectors(rows) > vectors ? wide_vectors(rows) / vectors : 1;
}

// f(first row, rows, first block, blocks) for all tiles of `count` rows by these blocks of kVectors vectors each,
// several of which have to end at or before `whole`. Who takes them backwards at every other step finds what was read
// last in a cache.
template <int kVectors, class F>
LSTM_FUSED_INLINE void for_tiles(int64_t count, Range blocks, int64_t whole, bool backwards, F&& f) {
  // at(begin, end) for all parts of `wide` blocks.
  const auto for_parts = [&](int64_t wide, auto&& at) {
    const int64_t parts = num_tiles(blocks.end - blocks.begin, wide);
    for (int64_t n = 0; n < parts; ++n) {
      const int64_t begin = blocks.begin + (backwards ? parts - 1 - n : n) * wide;
      at(begin, min(begin + wide, blocks.end));
    }
  };
  const auto one_by_one = [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      for_row_tiles(count, [&](int64_t first, auto rows) { f(first, rows, block, Constant<1>{}); });
  };
  if (count > kWideRows) return for_parts(1, one_by_one);
  if (count > 0)
    with_rows<kWideRows>(count, [&](auto rows) {
      constexpr int kWide = wide_blocks(rows.value, kVectors);
      for_parts(kWide, [&](int64_t begin, int64_t end) {
        if (end - begin == kWide && end <= whole)
          f(0, rows, begin, Constant<kWide>{});
        else
          one_by_one(begin, end);
      });
    });
}

// Whether tiles of R rows fetch the panels of the next ones meanwhile. (AVX2; other sets have not been timed.)
template <int R>
constexpr bool kSpreads = kVectorBytes == 32 && R > kWideRows;

// Of `elements` at `next`, read by rows of a line each, what a tile of R rows fetches, from `first` on among `count`.
template <int R, class E>
Spread spread_over_tiles(const E* next, int64_t elements, int64_t first, int64_t count) {
  if constexpr (!kSpreads<R>) return {};
  return {reinterpret_cast<const char*>(next + elements * first / count), 64 * R / count + 1};
}

// take(r, v, sum) of R rows times the first V vectors of the panels: of all at once for few rows, else of one panel
// after the other.
template <int R, int V, bool spreads = false, class E, class W, class Take>
LSTM_FUSED_INLINE void multiply_panels(const E* const* rows, int64_t terms, const Panels<W>& panels, int64_t chain,
                                       Take&& take, Spread* spread = nullptr) {
  constexpr int kTogether = R <= kWideRows ? V : kTileVectors;
  constexpr int kFetchedRows = spreads ? kSpread : R == 1 ? 0 : R <= kWideRows ? kPrefetchRows : kFarRows<E, W>;
  for (int begin = 0; begin < V; begin += kTogether) {
    const W* const panel = panels.from(begin / kTileVectors).begin;
    const auto acc =
        multiply<E, R, kTogether, kFetchedRows>(rows, terms, panel, kPanelWidth<E>, panels.distance, chain, spread);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kTogether; ++v) take(r, begin + v, acc.at[r][v]);
  }
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
