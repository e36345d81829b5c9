// What the threads of a persistent kernel share: a tile of rows of the batch, as the product reads it.
#pragma once

#include "clock.h"
#include "kernels/product.cuh"

namespace lstm_fused {

// A tile of rows in shared memory, twice: `current` is read while `next` is written. Between a write and the reads of
// it the kernel needs a barrier, and then turns the two over.
template <class A, int kChunks>
struct RowTiles {
  using T = Element<A>;
  static constexpr int kRowBytes = static_cast<int>(shared_row_bytes(kChunks));
  static constexpr int kTileBytes = static_cast<int>(kTileRows) * kRowBytes;
  char* current;
  char* next;

  LSTM_FUSED_DEVICE RowTiles() : current(shared_memory()), next(current + kTileBytes) {}

  // All of both: the padding has to be zero, for zero weights times NaN are NaN. A barrier must follow.
  LSTM_FUSED_DEVICE void clear() const {
    for (int at = thread_index() * kLaneBytes; at < 2 * kTileBytes; at += num_threads() * kLaneBytes)
      store_shared(reinterpret_cast<Vector16*>(current + at), Vector16{});
  }
  LSTM_FUSED_DEVICE Vector16 load(const char* tile, int row, int chunk) const {
    return load_shared(
        reinterpret_cast<const Vector16*>(tile + row * kRowBytes + chunk * kChunkBytes + lane_pair() * kLaneBytes));
  }
  LSTM_FUSED_DEVICE Vector16 load(int row, int chunk) const { return load(current, row, chunk); }
  // Elements k ... of a row, k counted from chunk 0.
  template <class V>
  LSTM_FUSED_DEVICE V load_at(int row, int k) const {
    return load_shared(reinterpret_cast<const V*>(current + row * kRowBytes + k * static_cast<int>(sizeof(T))));
  }
  template <class V>
  LSTM_FUSED_DEVICE void store(char* tile, int row, int k, V value) const {
    store_shared(reinterpret_cast<V*>(tile + row * kRowBytes + k * static_cast<int>(sizeof(T))), value);
  }
  LSTM_FUSED_DEVICE void turn() {
    char* const read = current;
    current = next;
    next = read;
  }
};

// The longest of some rows, a tile of them, from `first_row`: the number of steps that the block has to take.
LSTM_FUSED_DEVICE int64_t longest(const Clock& clock, int64_t first_row, int64_t count = kTileRows) {
  int64_t steps = 0;
  for (int64_t b = first_row; b < first_row + count && b < clock.shape.batch; ++b) {
    const int64_t length = clock.length(b);
    steps = length > steps ? length : steps;
  }
  return steps;
}

}  // namespace lstm_fused
