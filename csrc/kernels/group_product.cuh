// A block's part of the matrices of kind `group`, its products, and the sums of its warps.
#pragma once

#include "kernels/group_exchange.cuh"

namespace lstm_fused {

// Of a turn's two tiles of 8 rows. Backward, where a lane has few sums and long chains of them, they share the chunks
// of a turn of one tile, or are two chains each.
template <class A, bool kStacked>
constexpr int kTurnTiles = kTurnRows<A, kStacked> / static_cast<int>(kTileRows);
template <class A, int kLines, bool kStacked>
using GroupProducts =
    Product<A, kLines, (kLines == 2 && kTurnTiles<A, kStacked> == 1 ? 2 : 1)>[kTurnTiles<A, kStacked>];

// kLines lines of a block's part of a matrix, rows or columns, for each lane, and of them the warp's part of K: the
// first kHeld chunks in registers, the others in shared memory.
template <class A, int kLines, bool kStacked>
class GroupWeights {
 public:
  using Products = GroupProducts<A, kLines, kStacked>;
  // source.load(line, k): the 16 bytes at k of the chunk's part, the lane's own; source.transpose() follows. Each lane
  // reads its own weights alone.
  template <class Source>
  LSTM_FUSED_DEVICE GroupWeights(char* shared, int part_chunks, const Source& source)
      : part_chunks(part_chunks), shared(shared) {
    // Columns some at once: the addresses of all would crowd the registers.
    constexpr int kAtOnce = kLines > 2 ? kHeld : kHeld % 4 ? 1 : 4;
#pragma unroll
    for (int first = 0; first < kHeld; first += kAtOnce) {
#pragma unroll
      for (int chunk = first; chunk < first + kAtOnce; ++chunk)
#pragma unroll
        for (int line = 0; line < kLines; ++line) held[chunk][line] = Vector16{};
      if (kAtOnce < kHeld && first >= part_chunks) continue;
#pragma unroll
      for (int chunk = first; chunk < first + kAtOnce; ++chunk)
#pragma unroll
        for (int line = 0; line < kLines; ++line)
          if (chunk < part_chunks) held[chunk][line] = source.load(line, chunk_k(chunk));
#pragma unroll
      for (int chunk = first; chunk < first + kAtOnce; ++chunk)
#pragma unroll
        for (int line = 0; line < kLines; ++line) source.transpose(held[chunk][line]);
    }
    for (int chunk = kHeld; chunk < part_chunks; ++chunk)
      for (int line = 0; line < kLines; ++line) {
        Vector16 weights = source.load(line, chunk_k(chunk));
        source.transpose(weights);
        store_shared(place(chunk, line), weights);
      }
  }

  // Where its shared memory ends.
  LSTM_FUSED_DEVICE char* end() const {
    const int others = part_chunks > kHeld ? part_chunks - kHeld : 0;
    return shared + others * static_cast<int>(kGroupWarps) * kLines * kWarpSize * kLaneBytes;
  }

  // Adds the products with `rows`, of two tiles of 8 where `wide`: GroupRows, or others that load as these do.
  template <class Rows>
  LSTM_FUSED_DEVICE void multiply(const Rows& rows, bool wide, Products& products) const {
    if constexpr (kTurnRows<A, kStacked> == kTileRows)
      multiply<1>(rows, products);
    else if (wide)
      multiply<2>(rows, products);
    else
      multiply<1>(rows, products);
  }

 private:
  template <int kTiles, class Rows>
  LSTM_FUSED_DEVICE void multiply(const Rows& rows, Products& products) const {
    constexpr int kRows = static_cast<int>(kTileRows);
    const auto factor = [&](int n, int chunk) {
      const int at = first_k(chunk) * static_cast<int>(sizeof(Element<A>));
      return chunk < part_chunks && rows.has(n, at) ? rows.load(n, at) : Vector16{};
    };
    if constexpr (A::kTensorCore) {
      // Factors come from L2: kBatch chunks at once, while those before are multiplied.
      constexpr int kShares = kLines == 2 ? kTurnTiles<A, kStacked> : 1;
      constexpr int kBatch = kTiles > 1 || (kStacked && kLines > 2) ? 1 : kLines > 2 ? 2 : 4;
      static_assert(kHeld % kBatch == 0);
      Vector16 factors[kBatch][kTiles], coming[kBatch][kTiles] = {};
      const auto fetch = [&](int first) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            factors[i][tile] = coming[i][tile];
            coming[i][tile] = factor(tile * kRows + lane_group(), first + i);
          }
      };
      const auto add = [&](const Vector16(&weights)[kLines], int i, int chunk) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
          products[kTiles > 1 ? tile : chunk % kShares].add(
              weights, [&](int) { return rows.factors(factors[i][tile]); }, chunk);
      };
      fetch(0);
#pragma unroll
      for (int first = 0; first < kHeld; first += kBatch) {
        fetch(first + kBatch);
#pragma unroll
        for (int i = 0; i < kBatch; ++i) add(held[first + i], i, first + i);
      }
      for (int first = kHeld; first < part_chunks; first += kBatch) {
        fetch(first + kBatch);
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if (first + i < part_chunks) {
            Vector16 weights[kLines];
            load(first + i, weights);
            add(weights, i, i);
          }
      }
    } else {
#pragma unroll
      for (int chunk = 0; chunk < kHeld; ++chunk) products[0].add(held[chunk], [&](int n) { return factor(n, chunk); });
      for (int chunk = kHeld; chunk < part_chunks; ++chunk) {
        Vector16 weights[kLines];
        load(chunk, weights);
        products[0].add(weights, [&](int n) { return factor(n, chunk); });
      }
    }
  }

  LSTM_FUSED_DEVICE void load(int chunk, Vector16 (&weights)[kLines]) const {
#pragma unroll
    for (int line = 0; line < kLines; ++line) weights[line] = load_shared(place(chunk, line));
  }
  LSTM_FUSED_DEVICE int chunk_k(int chunk) const { return (warp_index() * part_chunks + chunk) * kChunkElements<A>; }
  LSTM_FUSED_DEVICE int first_k(int chunk) const { return chunk_k(chunk) + lane_pair() * kLaneElements<A>; }
  LSTM_FUSED_DEVICE Vector16* place(int chunk, int line) const {
    const int vector = ((chunk - kHeld) * static_cast<int>(kGroupWarps) + warp_index()) * kLines + line;
    return reinterpret_cast<Vector16*>(shared) + vector * kWarpSize + lane_index();
  }
  static constexpr int kHeld = kInRegisters<A, kStacked, kLines == kGroupLines<true>>;
  const int part_chunks;
  char* const shared;
  Vector16 held[kHeld][kLines];
};

// The sums of the warps, each over its part of K: kGates of them for each cell of kRows rows.
template <int kGates, int kRows>
class GroupSums {
 public:
  static constexpr int kBytes = static_cast<int>(group_sum_bytes(kRows, kGates == 1));
  char* const memory;

  // Of a turn's tiles of 8 rows, the second one where it is `wide`.
  template <class Product, int kTiles>
  LSTM_FUSED_DEVICE void put(Product (&products)[kTiles], bool wide) const {
    if constexpr (kTiles > 1) {
      if (wide)
        put_tile(products[1], 1);
      else if (kGates == 1)
        products[0].add(products[1]);
    }
    put_tile(products[0], 0);
  }
  // Of the calling thread's cell.
  struct alignas(kGates * sizeof(float)) Sums {
    float of[kGates];
  };
  LSTM_FUSED_DEVICE Sums total() const {
    Sums total = {};
#pragma unroll
    for (int warp = 0; warp < kGroupWarps; ++warp) {
      const Sums sums = load_shared(at(warp, cell_row(), cell_unit()));
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) total.of[gate] += sums.of[gate];
    }
    return total;
  }

 private:
  static constexpr int kStride = static_cast<int>(group_sum_stride(kGates == 1));

  // The lane's lines are its units gate by gate, in its two columns.
  template <class Product>
  LSTM_FUSED_DEVICE void put_tile(Product& product, int tile) const {
    product.finish();
#pragma unroll
    for (int unit = 0; unit < static_cast<int>(kGroupUnits) / kGroups; ++unit)
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        Sums sums;
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) sums.of[gate] = product.at(unit * kGates + gate, n);
        const int row = tile * static_cast<int>(kTileRows) + lane_pair() * kColumns + n;
        store_shared(at(warp_index(), row, unit * kGroups + lane_group()), sums);
      }
  }
  LSTM_FUSED_DEVICE Sums* at(int warp, int row, int unit) const {
    return reinterpret_cast<Sums*>(memory) + (warp * kRows + row) * kStride + unit;
  }
};

}  // namespace lstm_fused
