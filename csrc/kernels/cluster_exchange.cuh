// How the warps of a cluster share a product, and send each other what comes of it. docs/kernels.md has the essay.
#pragma once

#include "kernels/cluster_primitives.cuh"
#include "kernels/row_tiles.cuh"

namespace lstm_fused {

// The two tiles of a block as all blocks of the cluster fill them. A warp sends its part of a step only after it has
// read the tile of the step before, and no block begins the step after until all parts have come. So nobody fills a
// tile that anybody still reads, and to wait for one's mail is the only synchronisation of blocks.
template <class A, int kChunks>
class Mailbox {
 public:
  RowTiles<A, kChunks> tiles;
  static constexpr int kBytes = 2 * RowTiles<A, kChunks>::kTileBytes + 2 * static_cast<int>(sizeof(MBarrier));

  // `bytes`: what comes to each block at every step. A cluster barrier must follow.
  LSTM_FUSED_DEVICE explicit Mailbox(int bytes) : bytes(bytes) {
    barriers = reinterpret_cast<MBarrier*>(tiles.next + RowTiles<A, kChunks>::kTileBytes);
    if (thread_index() == 0) {
      mbarrier_init(barriers, 1);
      mbarrier_init(barriers + 1, 1);
      mbarrier_fence_init();
    }
    tiles.clear();
    block_barrier();
  }

  LSTM_FUSED_DEVICE void expect() const {
    if (thread_index() == 0) mbarrier_arrive_expect_bytes(barriers + filling, bytes);
  }
  // To `next` of block `rank`: elements k ... of a row.
  LSTM_FUSED_DEVICE void send(int rank, int row, int k, Vector16 value) const {
    constexpr int kRowBytes = RowTiles<A, kChunks>::kRowBytes;
    char* const place = tiles.next + row * kRowBytes + k * static_cast<int>(sizeof(Element<A>));
    store_remote_async(map_shared(reinterpret_cast<Vector16*>(place), rank), value,
                       map_shared(barriers + filling, rank));
  }
  // Waits until `next` is full, and turns to it.
  LSTM_FUSED_DEVICE void receive() {
    mbarrier_wait(barriers + filling, phase);
    tiles.turn();
    filling ^= 1;
    phase ^= filling;  // each of the two barriers serves every other step
  }

 private:
  MBarrier* barriers;
  int bytes;
  int filling = 1, phase = 0;
};

// kSplit warps that share a tile of units, each multiplying its own part of K. kKept: values that each of them needs.
// What travels is a V for each of kUnits units of a row.
template <class A, int kSplit, int kKept, class V, int kUnits>
class Team {
 public:
  using Acc = Accumulator<Element<A>>;
  // Sums on their way from warp to warp, twice, and a tile of units of 8 rows on its way out.
  static constexpr int kSums = kSplit * kSplit * kKept * kWarpSize;
  static constexpr int kRowBytes = kUnits * static_cast<int>(sizeof(V));
  static constexpr int kOutBytes = static_cast<int>(kTileRows) * kRowBytes;
  static constexpr int kBytes = kOutBytes + (kSplit > 1 ? 2 * kSums * static_cast<int>(sizeof(Acc)) : 0);
  const int tile, part;

  LSTM_FUSED_DEVICE explicit Team(char* memory)
      : tile(warp_index() / kSplit), part(warp_index() % kSplit), out(memory + tile * kBytes) {}

  LSTM_FUSED_DEVICE void barrier() const {
    if constexpr (kSplit == 1)
      warp_barrier();
    else
      named_barrier(1 + tile, kSplit * kWarpSize);
  }

  // Adds up values[to] of all parts, in their order, and leaves in `kept` those that are for this part. The barrier in
  // it also stands between the last step's send() and this one's put().
  LSTM_FUSED_DEVICE void combine(const Acc (&values)[kSplit][kKept], Acc (&kept)[kKept]) {
    if constexpr (kSplit == 1) {
      barrier();
#pragma unroll
      for (int n = 0; n < kKept; ++n) kept[n] = values[0][n];
    } else {
#pragma unroll
      for (int to = 0; to < kSplit; ++to)
#pragma unroll
        for (int n = 0; n < kKept; ++n) store_shared(sum(part, to, n), values[to][n]);
      barrier();
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        kept[n] = 0;
#pragma unroll
        for (int from = 0; from < kSplit; ++from) kept[n] += load_shared(sum(from, part, n));
      }
      turn ^= 1;  // the next sums do not meet readers of these
    }
  }

  LSTM_FUSED_DEVICE void put(int row, int unit_in_tile, V value) const {
    store_shared(reinterpret_cast<V*>(out + row * kRowBytes) + unit_in_tile, value);
  }
  // After all have put theirs: to all blocks. k: the element of a row where the tile begins.
  template <class Box>
  LSTM_FUSED_DEVICE void send(const Box& mailbox, int num_blocks, int k) const {
    constexpr int kPieces = kRowBytes / kLaneBytes, kVectors = static_cast<int>(kTileRows) * kPieces;
    barrier();
    for (int at = part * kWarpSize + lane_index(); at < kVectors * num_blocks; at += kSplit * kWarpSize) {
      const int vector = at % kVectors;
      const Vector16 value = load_shared(reinterpret_cast<const Vector16*>(out + vector * kLaneBytes));
      mailbox.send(at / kVectors, vector / kPieces, k + vector % kPieces * kLaneElements<A>, value);
    }
  }

 private:
  LSTM_FUSED_DEVICE Acc* sum(int from, int to, int n) const {
    return reinterpret_cast<Acc*>(out + kOutBytes) + turn * kSums + ((from * kSplit + to) * kKept + n) * kWarpSize +
           lane_index();
  }
  char* const out;
  int turn = 0;
};

// A warp's part of K, in chunks of 64 bytes: of those that there are, not of those that its registers could hold.
class Part {
 public:
  const int first, count;

  LSTM_FUSED_DEVICE Part(int part, int parts, int64_t row_bytes)
      : Part(part, static_cast<int>((row_bytes + parts * kChunkBytes - 1) / (parts * kChunkBytes))) {}

  // Adds its product with the current tile. Where four chunks in a row are none of its, they are left out.
  template <class A, int R, int kChains, int kChunks, int kTileChunks>
  LSTM_FUSED_DEVICE void multiply(const Vector16 (&weights)[kChunks][R], const RowTiles<A, kTileChunks>& tiles,
                                  Product<A, R, kChains>& product) const {
    constexpr int kBatch = A::kTensorCore ? 4 : 1;
#pragma unroll
    for (int begin = 0; begin < kChunks; begin += kBatch) {
      if (begin >= count) break;
#pragma unroll
      for (int chunk = begin; chunk < begin + kBatch; ++chunk)
        product.add(weights[chunk], [&](int n) { return tiles.load(n, first + chunk); }, chunk);
    }
  }

 private:
  LSTM_FUSED_DEVICE Part(int part, int count) : first(part * count), count(count) {}
};

}  // namespace lstm_fused
