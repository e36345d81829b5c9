// The product of kind `step`: a block multiplies rows of a matrix by rows of the batch, both read from L2 or memory.
#pragma once

#include "kernels/product.cuh"

namespace lstm_fused {

constexpr int kStepWarps = 8;
constexpr int kStepThreads = kStepWarps * kWarpSize;
constexpr int kLaneRows = 4;                      // matrix rows per lane
constexpr int kMatrixRows = kLaneRows * kGroups;  // of a block

// Row tiles of the batch per block: as many as the registers have accumulators for.
template <class A>
constexpr int kRowTiles = A::kTensorCore            ? 4
                          : sizeof(Element<A>) == 4 ? 2
                                                    : 1;
template <class A>
constexpr int kBatchRows = kRowTiles<A> * static_cast<int>(kTileRows);

// The rows of the batch that a block takes, and what it keeps in shared memory: a pointer to each of their rows, and
// the sums of each warp.
template <class A>
struct StepShared {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  // A stride of 36 sums spreads the 32 lanes of a store over all banks.
  static constexpr int kStride = kMatrixRows + kPairs;
  static constexpr int kRowsBytes = kBatchRows<A> * static_cast<int>(sizeof(const T*));
  static constexpr int kBytes = kRowsBytes + kStepWarps * kBatchRows<A> * kStride * static_cast<int>(sizeof(Acc));

  static LSTM_FUSED_DEVICE const T** row(int n) { return reinterpret_cast<const T**>(shared_memory()) + n; }
  static LSTM_FUSED_DEVICE Acc* sum(int warp, int n, int matrix_row) {
    return reinterpret_cast<Acc*>(shared_memory() + kRowsBytes) + (warp * kBatchRows<A> + n) * kStride + matrix_row;
  }
};

// kMatrixRows rows of a matrix times kBatchRows rows of the batch, K elements each. The warps share K, and their sums
// are added up in a fixed order.
// matrix_row(r): the lane's r-th row; batch_row(n): row n of the block's part of the batch; null reads as zeros.
// epilogue(n, group, sums) gets, for row n, the sums of the four matrix rows of lanes of that group.
template <class A, class MatrixRow, class BatchRow, class Epilogue>
LSTM_FUSED_DEVICE void step_product(MatrixRow&& matrix_row, BatchRow&& batch_row, int64_t k_size, bool aligned,
                                    Epilogue&& epilogue) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  using Shared = StepShared<A>;
  if (thread_index() < kBatchRows<A>) store_shared(Shared::row(thread_index()), batch_row(thread_index()));
  block_barrier();

  const T* matrix[kLaneRows];
#pragma unroll
  for (int r = 0; r < kLaneRows; ++r) matrix[r] = matrix_row(r);
  Product<A, kLaneRows> products[kRowTiles<A>];
  const auto load = [&](const T* row, int64_t chunk) {
    const int64_t k = chunk + lane_pair() * kLaneElements<A>;
    return row != nullptr && k < k_size ? load_factors<A>(row, k, k_size, aligned) : Vector16{};
  };
  constexpr int kStride = kStepWarps * kChunkElements<A>;
  const int64_t first_chunk = warp_index() * kChunkElements<A>;
  Vector16 coming[kLaneRows];  // weights come from afar: a chunk ahead
#pragma unroll
  for (int r = 0; r < kLaneRows; ++r) coming[r] = load(matrix[r], first_chunk);
  for (int64_t chunk = first_chunk; chunk < k_size; chunk += kStride) {
    Vector16 weights[kLaneRows];
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      weights[r] = coming[r];
      coming[r] = load(matrix[r], chunk + kStride);
    }
#pragma unroll
    for (int tile = 0; tile < kRowTiles<A>; ++tile)
      products[tile].add(weights, [&](int n) {
        return load(load_shared(Shared::row(tile * static_cast<int>(kTileRows) + n)), chunk);
      });
  }

#pragma unroll
  for (int tile = 0; tile < kRowTiles<A>; ++tile) {
    products[tile].finish();
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
        store_shared(Shared::sum(warp_index(), tile * static_cast<int>(kTileRows) + lane_pair() * kColumns + n,
                                 r * kGroups + lane_group()),
                     products[tile].at(r, n));
  }
  block_barrier();
  for (int at = thread_index(); at < kBatchRows<A> * kGroups; at += kStepThreads) {
    const int n = at / kGroups, group = at % kGroups;
    Acc sums[kLaneRows] = {};
#pragma unroll
    for (int warp = 0; warp < kStepWarps; ++warp)
#pragma unroll
      for (int r = 0; r < kLaneRows; ++r) sums[r] += load_shared(Shared::sum(warp, n, r * kGroups + group));
    epilogue(n, group, sums);
  }
}

}  // namespace lstm_fused
