// A block's part of the matrices of kind `group`, its products, and the sums of its warps.
#pragma once

#include "kernels/group_exchange.cuh"

namespace lstm_fused {

// Backward a lane has few sums and long chains of them: two chains.
template <class A, int kLines>
using GroupProduct = Product<A, kLines, kLines == 2 ? 2 : 1>;

// kLines lines of a block's part of a matrix, rows or columns, for each lane, and of them the warp's part of K: the
// first kHeld chunks in registers, the others in shared memory.
template <class A, int kLines, bool kStacked>
class GroupWeights {
  static constexpr int kHeld = kInRegisters<A, kStacked, kLines == kGroupLines<true>>;
  // A lane's vectors of a chunk: on tensor cores one, elsewhere of all rows.
  static constexpr int kOfChunk = A::kTensorCore ? 1 : static_cast<int>(kTileRows);
  // Those that are sent for before they are needed, as many as registers are left for; half of them are awaited at
  // once.
  static constexpr int kAhead = kLines > 2 ? (kStacked ? 1 : 2) : !A::kTensorCore ? kOfChunk : kHeld == 12 ? 6 : 4;
  static constexpr int kAtOnce = kAhead < kOfChunk ? 1 : kAhead / kOfChunk;  // chunks
  static_assert(kHeld % kAtOnce == 0);

 public:
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

  struct Looks {
    Vector16 at[kAhead];
  };
  // At the first factors of a tile, as far as they are there: multiply() follows.
  LSTM_FUSED_DEVICE void look(const GroupRows& rows, Looks& looks) const {
    const Part part(*this, rows);
    unrolled<kAhead>([&](auto n) { looks.at[n.value] = part.template load<n.value>(0); });
  }
  // Adds the product with a tile's rows, once they are there.
  LSTM_FUSED_DEVICE void multiply(const GroupRows& rows, Looks& looks, GroupProduct<A, kLines>& product) const {
    const Part part(*this, rows);
    if constexpr (kStacked) {
      unrolled<kHeld>(
          [&](auto chunk) {  // takes fewer registers than multiply_held(), which both matrices leave none for
            if (chunk.value < part_chunks) add_held<chunk.value>(part, looks, product);
          });
      multiply_shared(part, looks, product);
    } else {
      multiply_held<0>(part, looks, product);
    }
  }

 private:
  // The lane's vectors of the warp's part of some rows, in the order in which they are multiplied.
  class Part {
   public:
    LSTM_FUSED_DEVICE Part(const GroupWeights& weights, const GroupRows& rows) : rows(rows) {
      const auto byte_of = [](int k) { return k * static_cast<int>(sizeof(Element<A>)); };
      const int at = byte_of(weights.first_k(0)), end = byte_of(weights.chunk_k(weights.part_chunks));
      const int row = A::kTensorCore ? lane_group() : 0;
      first = rows.first + row * rows.bytes + at;
      left = row < rows.count ? (end < rows.bytes ? end : rows.bytes) - at : 0;
    }
    // The nth from a chunk on, as far as it is there.
    template <int n>
    LSTM_FUSED_DEVICE Vector16 load(int chunk) const {
      constexpr int kBytes = static_cast<int>(kChunkBytes), kRow = n % kOfChunk;
      return load_relaxed_within<n / kOfChunk * kBytes>(kRow < rows.count ? left - chunk * kBytes : 0,
                                                        first + kRow * rows.bytes + chunk * kBytes);
    }

   private:
    const GroupRows& rows;
    const char* first;
    int left;  // bytes of a row
  };
  // The chunks in registers from kChunk on, and then those in shared memory. What is not there ends the product, rather
  // than being skipped: then a vector that has been sent for is in the same registers on every way to those who use it.
  // A move to others would wait for it, and what is behind would wait with it.
  template <int kChunk>
  LSTM_FUSED_DEVICE void multiply_held(const Part& part, Looks& looks, GroupProduct<A, kLines>& product) const {
    if constexpr (kChunk < kHeld) {
      if (kChunk >= part_chunks) return;
      add_held<kChunk>(part, looks, product);
      multiply_held<kChunk + 1>(part, looks, product);
    } else {
      multiply_shared(part, looks, product);
    }
  }
  template <int kChunk>
  LSTM_FUSED_DEVICE void add_held(const Part& part, Looks& looks, GroupProduct<A, kLines>& product) const {
    add<kChunk>(part, 0, held[kChunk], kChunk + kAtOnce < kHeld || part_chunks > kHeld, looks, product);
  }
  LSTM_FUSED_DEVICE void multiply_shared(const Part& part, Looks& looks, GroupProduct<A, kLines>& product) const {
    for (int first = kHeld; first < part_chunks; first += kAtOnce)
      unrolled<kAtOnce>([&](auto chunk) {
        if (first + chunk.value >= part_chunks) return;
        Vector16 weights[kLines];
        load(first + chunk.value, weights);
        add<chunk.value>(part, first, weights, true, looks, product);
      });
  }
  // Chunk from + kChunk, and sends for as much of what is behind those that are on their way, if there is more.
  template <int kChunk>
  LSTM_FUSED_DEVICE void add(const Part& part, int from, const Vector16 (&weights)[kLines], bool more, Looks& looks,
                             GroupProduct<A, kLines>& product) const {
    constexpr int kAwaited = kAhead > 1 ? kAhead / 2 : 1;
    unrolled<kOfChunk>([&](auto of_chunk) {
      constexpr int n = kChunk * kOfChunk + of_chunk.value;
      Vector16& place = looks.at[n % kAhead];
      if constexpr (n % kAwaited == 0)
        await<kAwaited>(&place, [&](auto i) { return part.template load<n + i.value>(from); });
      const Vector16 taken = place;
      if (of_chunk.value + kAhead < kOfChunk || more) place = part.template load<n + kAhead>(from);
      if constexpr (A::kTensorCore)
        product.add(weights, [&](int) { return taken; }, kChunk);
      else
        product.add_column(of_chunk.value, weights, taken);
    });
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

  // Of one of a turn's tiles. The lane's lines are its units gate by gate, in its two columns.
  template <class Product>
  LSTM_FUSED_DEVICE void put(Product& product, int tile) const {
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

  LSTM_FUSED_DEVICE Sums* at(int warp, int row, int unit) const {
    return reinterpret_cast<Sums*>(memory) + (warp * kRows + row) * kStride + unit;
  }
};

}  // namespace lstm_fused
