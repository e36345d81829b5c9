// The persistent kernels of kind `block`: a thread block holds all of W_hh in registers, takes a tile of kTileRows rows
// of the batch in one direction through all of time, and meets once per step, in shared memory. docs/kernels.md has
// the essay.
#pragma once

#include "kernels/arguments.h"
#include "kernels/lane_cells.cuh"
#include "kernels/launchers.h"
#include "kernels/row_tiles.cuh"

namespace lstm_fused {

// x of a tile of rows on its way to shared memory, as more columns of h: threads carry 16 bytes of a row each, fetched
// a step ahead. Without input chunks there is nothing to carry.
template <class A, int kInputChunks>
struct InputTile {
  using T = Element<A>;
  static constexpr int kLoads = static_cast<int>(kTileRows) * kInputChunks * kPairs;  // of the block
  static constexpr int kMost = (kLoads + kWarpSize - 1) / kWarpSize;  // of a thread, in a block of one warp
  const LayerShape& s;
  const ForwardParams<T, Accumulator<T>>& p;
  int64_t first_row;
  bool aligned;
  Vector16 carried[kMost > 0 ? kMost : 1] = {};

  LSTM_FUSED_DEVICE void fetch(const Clock& clock, int64_t t) {
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      const int at = thread_index() + n * num_threads();
      if (at >= kLoads) break;
      const int64_t b = first_row + at / (kLoads / kTileRows);
      const int64_t k = at % (kLoads / kTileRows) * kLaneElements<A>;
      carried[n] = b < s.batch && t < clock.length(b)  // what lies past a row's end is never read
                       ? load_factors<A>(p.x + (t * s.batch + b) * p.input_size, k, p.input_size, aligned)
                       : Vector16{};
    }
  }
  template <class Tiles>
  LSTM_FUSED_DEVICE void put(const Tiles& tiles, char* tile, int begin) const {
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      const int at = thread_index() + n * num_threads();
      if (at >= kLoads) break;
      tiles.store(tile, at / (kLoads / kTileRows), begin + at % (kLoads / kTileRows) * kLaneElements<A>, carried[n]);
    }
  }
};
template <class A>
struct InputTile<A, 0> {
  const LayerShape& s;
  const ForwardParams<Element<A>, Accumulator<Element<A>>>& p;
  int64_t first_row;
  bool aligned;
  LSTM_FUSED_DEVICE void fetch(const Clock&, int64_t) {}
  template <class Tiles>
  LSTM_FUSED_DEVICE void put(const Tiles&, char*, int) const {}
};

// A warp takes 8 units. With kInputChunks x is multiplied here too.
template <class A, int kHiddenChunks, int kInputChunks, bool kTraining>
LSTM_FUSED_KERNEL(block_forward_threads(kHiddenChunks* kChunkElements<A>), 1)
lstm_block_forward_kernel(LSTM_FUSED_PARAMS ForwardArguments<Element<A>> arguments) {
  constexpr int kChunks = kHiddenChunks + kInputChunks, kInputBegin = kHiddenChunks * kChunkElements<A>;
  const LayerShape& s = arguments.shape;
  const auto& p = arguments.direction[block_index().y];
  const Clock clock{s, p.reverse};
  const int64_t first_row = block_index().x * kTileRows, width = s.hidden_size;
  const int64_t num_steps = longest(clock, first_row);
  const auto time = [&](int64_t step) { return p.reverse ? num_steps - 1 - step : step; };

  const int64_t unit = warp_index() * kTileUnits + lane_group();
  const bool has_unit = unit < width;
  const bool w_hh_aligned = rows_are_aligned<A>(p.w_hh, width),
             w_ih_aligned = rows_are_aligned<A>(p.w_ih, p.input_size);
  Vector16 weights[kChunks][kNumGates] = {};
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk)
#pragma unroll
    for (int gate = 0; gate < kNumGates; ++gate) {
      if (!has_unit) continue;
      const int k = chunk * kChunkElements<A> + lane_pair() * kLaneElements<A>;
      const int64_t row = gate * width + unit;
      weights[chunk][gate] = chunk < kHiddenChunks ? load_factors<A>(p.w_hh + row * width, k, width, w_hh_aligned)
                                                   : load_factors<A>(p.w_ih + row * p.input_size, k - kInputBegin,
                                                                     p.input_size, w_ih_aligned);
    }

  const int column = lane_pair() * kColumns;
  constexpr Input kInput = kInputChunks > 0 ? Input::kNone : kHiddenChunks > 2 ? Input::kAtOnce : Input::kAhead;
  ForwardCells<A, kColumns, kTraining, kInput> cells(s, p, first_row + column, unit);
  RowTiles<A, kChunks> tiles;
  InputTile<A, kInputChunks> x{s, p, first_row, rows_are_aligned<A>(p.x, p.input_size)};
  const auto fetch = [&](int64_t t) {
    cells.fetch(t);
    x.fetch(clock, t);
  };
  const auto put = [&](char* tile) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
      if (has_unit) tiles.store(tile, column + n, static_cast<int>(unit), cells.factor(n));
    x.put(tiles, tile, kInputBegin);
  };

  tiles.clear();
  block_barrier();
  if (num_steps > 0) fetch(time(0));
  cells.begin();
  put(tiles.current);
  block_barrier();
  for (int64_t step = 0; step < num_steps; ++step) {
    const int64_t t = time(step);
    cells.prepare(t);
    if (step + 1 < num_steps) fetch(time(step + 1));  // on its way while the product runs
    Product<A, kNumGates> product;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk)
      product.add(weights[chunk], [&](int n) { return tiles.load(n, chunk); });
    product.finish();
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
      cells.step(t, n, {product.at(0, n), product.at(1, n), product.at(2, n), product.at(3, n)});
    put(tiles.next);
    cells.turn();
    block_barrier();
    tiles.turn();
  }
  cells.finish();
}

// A warp takes 16 units, two per lane. The tile in shared memory is grad_gates of the step after, unit by unit, gate by
// gate, so that a lane stores its cell's four gates at once: element k = 4 * unit + gate.
template <class A, int kHiddenChunks>
LSTM_FUSED_KERNEL(block_backward_threads(kHiddenChunks* kChunkElements<A>), 1)
lstm_block_backward_kernel(LSTM_FUSED_PARAMS BackwardArguments<Element<A>> arguments) {
  using T = Element<A>;
  constexpr int kChunks = kNumGates * kHiddenChunks, kUnits = 2;
  const LayerShape& s = arguments.shape;
  const auto& p = arguments.direction[block_index().y];
  const Clock clock{s, p.reverse};
  const int64_t first_row = block_index().x * kTileRows, num_steps = longest(clock, first_row);

  const int column = lane_pair() * kColumns;
  BackwardCells<A, kUnits, kColumns> cells(s, p, first_row + column, warp_index() * kUnits * kTileUnits + lane_group());
  Vector16 weights[kChunks][kUnits];  // columns of W_hh
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk)
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      weights[chunk][u] = load_column<A>(p.w_hh, s.hidden_size, cells.unit(u),
                                         chunk * kChunkElements<A> + lane_pair() * kLaneElements<A>);

  RowTiles<A, kChunks> tiles;
  const auto multiply = [&] {
    Product<A, kUnits> product;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk)
      product.add(weights[chunk], [&](int n) { return tiles.load(n, chunk); });
    product.finish();
    return product;
  };
  tiles.clear();
  block_barrier();
  for (int64_t step = num_steps - 1; step >= 0; --step) {
    const int64_t t = p.reverse ? num_steps - 1 - step : step;
    cells.fetch(t);  // on its way while the product runs
    const Product<A, kUnits> product = multiply();
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        if (!cells.has_unit(u)) continue;
        const int k = kNumGates * cells.unit(u);
        // A row that is not yet or no longer there: its gradient waits.
        tiles.store(tiles.next, column + n, k,
                    cells.active(t, n) ? cells.step(t, u, n, product.at(u, n))
                                       : tiles.template load_at<GateFactors<T>>(column + n, k));
      }
    block_barrier();
    tiles.turn();
  }
  const Product<A, kUnits> product = multiply();
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
#pragma unroll
    for (int n = 0; n < kColumns; ++n) cells.finish(u, n, product.at(u, n));
}

// ---- launchers

template <class A, int kHiddenChunks, int kInputChunks>
int launch_block_forward(const ForwardArguments<Element<A>>& arguments, const Launch& launch, void* stream) {
  const auto kernel = launch.training ? lstm_block_forward_kernel<A, kHiddenChunks, kInputChunks, true>
                                      : lstm_block_forward_kernel<A, kHiddenChunks, kInputChunks, false>;
  const LayerShape& s = arguments.shape;
  Grid grid;
  grid.blocks = {static_cast<int>(ceil_div(s.batch, kTileRows)), static_cast<int>(launch.num_directions), 1};
  grid.threads = static_cast<int>(block_forward_threads(s.hidden_size));
  grid.shared_bytes = block_forward_shared_bytes({kHiddenChunks, kInputChunks});
  static_assert(2 * RowTiles<A, kHiddenChunks + kInputChunks>::kTileBytes ==
                block_forward_shared_bytes({kHiddenChunks, kInputChunks}));
  return launch_kernel(kernel, grid, stream, arguments);
}

template <class A, int kHiddenChunks>
int launch_block_backward(const BackwardArguments<Element<A>>& arguments, const Launch& launch, void* stream) {
  const LayerShape& s = arguments.shape;
  Grid grid;
  grid.blocks = {static_cast<int>(ceil_div(s.batch, kTileRows)), static_cast<int>(launch.num_directions), 1};
  grid.threads = static_cast<int>(block_backward_threads(s.hidden_size));
  grid.shared_bytes = block_backward_shared_bytes({kHiddenChunks, 0});
  static_assert(2 * RowTiles<A, kNumGates * kHiddenChunks>::kTileBytes ==
                block_backward_shared_bytes({kHiddenChunks, 0}));
  return launch_kernel(lstm_block_backward_kernel<A, kHiddenChunks>, grid, stream, arguments);
}

template <class A>
int run_block_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  constexpr DType kType = dtype_of<A>;
  constexpr BlockVariant kSmall = block_variant(kType, 1, true),
                         kLarge = block_variant(kType, block_max_hidden(kType), false);
  const auto arguments = make_arguments<ForwardArguments<Element<A>>>(launch, shape, params);
  if (launch.fuses_input)
    return launch_block_forward<A, kSmall.hidden_chunks, kSmall.input_chunks>(arguments, launch, stream);
  return block_variant(kType, shape.hidden_size, false).hidden_chunks == kLarge.hidden_chunks
             ? launch_block_forward<A, kLarge.hidden_chunks, 0>(arguments, launch, stream)
             : launch_block_forward<A, kSmall.hidden_chunks, 0>(arguments, launch, stream);
}

template <class A>
int run_block_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  constexpr DType kType = dtype_of<A>;
  constexpr BlockVariant kSmall = block_variant(kType, 1, false),
                         kLarge = block_variant(kType, block_max_hidden(kType), false);
  const auto arguments = make_arguments<BackwardArguments<Element<A>>>(launch, shape, params);
  return block_variant(kType, shape.hidden_size, false).hidden_chunks == kLarge.hidden_chunks
             ? launch_block_backward<A, kLarge.hidden_chunks>(arguments, launch, stream)
             : launch_block_backward<A, kSmall.hidden_chunks>(arguments, launch, stream);
}

template <DType kType>
int block_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(
      launch, [&](auto arithmetic) { return run_block_forward<decltype(arithmetic)>(launch, shape, params, stream); });
}

template <DType kType>
int block_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(
      launch, [&](auto arithmetic) { return run_block_backward<decltype(arithmetic)>(launch, shape, params, stream); });
}

}  // namespace lstm_fused
