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
    return shared + others * num_warps<kStacked>() * kWarpSize * kLines * kLaneBytes;
  }

  // At the factors of a tile: the first vectors, as far as they are there.
  struct Looks {
    const char* first;
    Vector16 at[kAhead];
    bool whole;  // what has been multiplied of them
  };
  // The lane's part of rows, in the order in which they are multiplied.
  class Part {
   public:
    LSTM_FUSED_DEVICE Part(const GroupWeights& weights, const GroupRows& rows)
        : row_bytes(rows.bytes), count(rows.count) {
      const auto byte_of = [](int k) { return k * static_cast<int>(sizeof(Element<A>)); };
      const int at = byte_of(weights.first_k(0)), end = byte_of(weights.chunk_k(weights.part_chunks));
      const int row = A::kTensorCore ? lane_group() : 0;
      first = rows.first + (row * rows.bytes + at);
      left = row < rows.count ? (end < rows.bytes ? end : rows.bytes) - at : 0;
    }
    // The nth vector from a chunk on, as far as it is there.
    template <int n>
    LSTM_FUSED_DEVICE Vector16 load(const char* first, int chunk) const {
      constexpr int kBytes = static_cast<int>(kChunkBytes), kRow = n % kOfChunk;
      return load_relaxed_within<n / kOfChunk * kBytes>(kRow < count ? left - chunk * kBytes : 0,
                                                        first + (kRow * row_bytes + chunk * kBytes));
    }
    const char* first;

   private:
    int row_bytes, count, left;  // left: bytes of a row
  };
  LSTM_FUSED_DEVICE Part part(const GroupRows& rows) const { return {*this, rows}; }

  // multiply() follows. `place`: of the rows, bytes behind those of `part`.
  LSTM_FUSED_DEVICE void look(const Part& part, uint64_t place, Looks& looks) const {
    looks.first = part.first + place;
    look_again(part, looks);
  }
  LSTM_FUSED_DEVICE void look_again(const Part& part, Looks& looks) const {
    looks.whole = true;
    unrolled<kAhead>([&](auto n) { looks.at[n.value] = part.template load<n.value>(looks.first, 0); });
  }
  // Adds the product with a tile's rows, once they are there.
  LSTM_FUSED_DEVICE void multiply(const Part& part, Looks& looks, GroupProduct<A, kLines>& product) const {
    if constexpr (kStacked) {
      unrolled<kHeld>(
          [&](auto chunk) {  // takes fewer registers than multiply_held(), which both matrices leave none for
            if (chunk.value < part_chunks) add_held<chunk.value, true>(part, looks, product);
          });
      multiply_shared<true>(part, looks, product);
      return;
    } else if constexpr (A::kTensorCore) {
      // It costs nothing to see behind the products whether all was there; if not, they are formed again.
      if (multiply_held<0, false>(part, looks, product)) return;
      product = {};
      look_again(part, looks);
    }
    multiply_held<0, true>(part, looks, product);
  }

  // At the factors of a tile where registers hold all weights: all vectors.
  struct AllLooks {
    Vector16 at[kHeld];
  };
  LSTM_FUSED_DEVICE void look(const Part& part, const char* rows, AllLooks& looks) const {
    unrolled<kHeld>([&](auto n) { looks.at[n.value] = part.template load<n.value>(rows, 0); });
  }
  LSTM_FUSED_DEVICE void look_until_whole(const Part& part, const char* rows, AllLooks& looks) const {
    look(part, rows, looks);
    await<kHeld>(looks.at, [&](auto n) { return part.template load<n.value>(rows, 0); });
  }
  // Adds the product with what looks found, and sends for the same vectors of the rows `next` as they are taken.
  template <class F>
  LSTM_FUSED_DEVICE void multiply(const Part& part, const char* next, AllLooks& looks, GroupProduct<A, kLines>& product,
                                  F&& before_last_chunk) const {
    unrolled<kHeld>([&](auto n) {
      if (n.value == kHeld - 1) before_last_chunk();
      Vector16& place = looks.at[n.value];
      product.add(held[n.value], [&](int) { return place; }, n.value);
      place = part.template load<n.value>(next, 0);
    });
  }
  // Whether the sums of the lane's columns may have been made of words that are missing: those are NaN, in 16 bit, and
  // so is what is made of them.
  LSTM_FUSED_DEVICE static bool may_lack_words(const GroupProduct<A, kLines>& product) {
    const float either = product.at(0, 0) + product.at(0, 1);
    return either != either;
  }

 private:
  // The chunks in registers from kChunk on, and then those in shared memory. What is not there ends the product, rather
  // than being skipped: then a vector that has been sent for is in the same registers on every way to those who use it.
  // A move to others would wait for it, and what is behind would wait with it.
  // Whether all was there, of those and before; kAwaits: waits until it is.
  template <int kChunk, bool kAwaits>
  LSTM_FUSED_DEVICE bool multiply_held(const Part& part, Looks& looks, GroupProduct<A, kLines>& product) const {
    if constexpr (kChunk < kHeld) {
      if (kChunk > 0 && kChunk >= part_chunks) return kChunk % kAtOnce == 0 || are_whole(looks);
      add_held<kChunk, kAwaits>(part, looks, product);
      if (!kAwaits && (kChunk + 1) % kAtOnce == 0 && !are_whole(looks)) return false;
      return multiply_held<kChunk + 1, kAwaits>(part, looks, product);
    } else {
      return multiply_shared<kAwaits>(part, looks, product);
    }
  }
  template <int kChunk, bool kAwaits>
  LSTM_FUSED_DEVICE void add_held(const Part& part, Looks& looks, GroupProduct<A, kLines>& product) const {
    add<kChunk, kAwaits>(part, 0, held[kChunk], kChunk + kAtOnce < kHeld || part_chunks > kHeld, looks, product);
  }
  template <bool kAwaits>
  LSTM_FUSED_DEVICE bool multiply_shared(const Part& part, Looks& looks, GroupProduct<A, kLines>& product) const {
    for (int first = kHeld; first < part_chunks; first += kAtOnce) {
      unrolled<kAtOnce>([&](auto chunk) {
        if (first + chunk.value >= part_chunks) return;
        Vector16 weights[kLines];
        load(first + chunk.value, weights);
        add<chunk.value, kAwaits>(part, first, weights, true, looks, product);
      });
      if (!kAwaits && !are_whole(looks)) return false;
    }
    return true;
  }
  // Chunk from + kChunk, and sends for as much of what is behind those that are on their way, if there is more.
  template <int kChunk, bool kAwaits>
  LSTM_FUSED_DEVICE void add(const Part& part, int from, const Vector16 (&weights)[kLines], bool more, Looks& looks,
                             GroupProduct<A, kLines>& product) const {
    constexpr int kAwaited = kAhead > 1 ? kAhead / 2 : 1;
    unrolled<kOfChunk>([&](auto of_chunk) {
      constexpr int n = kChunk * kOfChunk + of_chunk.value;
      Vector16& place = looks.at[n % kAhead];
      if constexpr (kAwaits && n % kAwaited == 0)
        await<kAwaited>(&place, [&](auto i) { return part.template load<n + i.value>(looks.first, from); });
      const Vector16 taken = place;
      if (of_chunk.value + kAhead < kOfChunk || more) place = part.template load<n + kAhead>(looks.first, from);
      if constexpr (A::kTensorCore)
        product.add(weights, [&](int) { return taken; }, kChunk);
      else
        product.add_column(of_chunk.value, weights, taken);
      if constexpr (!kAwaits) looks.whole &= is_whole(taken);
    });
  }
  // By a warp: whether all that has been multiplied was.
  LSTM_FUSED_DEVICE static bool are_whole(const Looks& looks) { return !any_lane(!looks.whole); }

  LSTM_FUSED_DEVICE void load(int chunk, Vector16 (&weights)[kLines]) const {
#pragma unroll
    for (int line = 0; line < kLines; ++line) weights[line] = load_shared(place(chunk, line));
  }
  LSTM_FUSED_DEVICE int chunk_k(int chunk) const { return (warp_index() * part_chunks + chunk) * kChunkElements<A>; }
  LSTM_FUSED_DEVICE int first_k(int chunk) const { return chunk_k(chunk) + lane_pair() * kLaneElements<A>; }
  LSTM_FUSED_DEVICE Vector16* place(int chunk, int line) const {
    const int vector = ((chunk - kHeld) * num_warps<kStacked>() + warp_index()) * kLines + line;
    return reinterpret_cast<Vector16*>(shared) + vector * kWarpSize + lane_index();
  }
  const int part_chunks;
  char* const shared;
  Vector16 held[kHeld][kLines];
};

// The sums of the warps, each over its part of K: kGates of them for each cell of 8 rows.
template <int kGates, bool kStacked>
class GroupSums {
 public:
  static constexpr int kWarpBytes = static_cast<int>(group_sum_bytes(kGates == 1, 1));
  LSTM_FUSED_DEVICE static int bytes() { return num_warps<kStacked>() * kWarpBytes; }
  char* const memory;

  // The nth of several.
  LSTM_FUSED_DEVICE GroupSums at(int n) const { return {memory + n * bytes()}; }

  // The lane's lines are its units gate by gate, in its two columns.
  template <class Product>
  LSTM_FUSED_DEVICE void put(Product& product) const {
    product.finish();
#pragma unroll
    for (int unit = 0; unit < static_cast<int>(kGroupUnits) / kGroups; ++unit)
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        Sums sums;
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) sums.of[gate] = product.at(unit * kGates + gate, n);
        store_shared(at(warp_index(), lane_pair() * kColumns + n, unit * kGroups + lane_group()), sums);
      }
  }
  // Of the calling thread's cell.
  struct alignas(kGates * sizeof(float)) Sums {
    float of[kGates];
  };
  LSTM_FUSED_DEVICE Sums total() const { return total_of(num_warps<kStacked>() > kHalf); }
  // In a block that has an SM to itself.
  LSTM_FUSED_DEVICE Sums total_of_all() const { return total_of(true); }

 private:
  static constexpr int kHalf = static_cast<int>(kGroupWarps) / 2;
  LSTM_FUSED_DEVICE Sums total_of(bool all) const {
    Sums total = {}, sums[2 * kHalf] = {};
#pragma unroll
    for (int warp = 0; warp < kHalf; ++warp) sums[warp] = load_shared(at(warp, cell_row(), cell_unit()));
    if (all)
#pragma unroll
      for (int warp = kHalf; warp < 2 * kHalf; ++warp) sums[warp] = load_shared(at(warp, cell_row(), cell_unit()));
#pragma unroll
    for (const Sums& of_warp : sums)
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) total.of[gate] += of_warp.of[gate];
    return total;
  }
  static constexpr int kStride = static_cast<int>(group_sum_stride(kGates == 1));

  LSTM_FUSED_DEVICE Sums* at(int warp, int row, int unit) const {
    return reinterpret_cast<Sums*>(memory) + (warp * static_cast<int>(kTileRows) + row) * kStride + unit;
  }
};

}  // namespace lstm_fused
