// The persistent kernels of kind `block`: a thread block holds all of W_hh in registers, takes a tile of kTileRows rows
// of the batch in one direction through all of time, and meets once per step, in shared memory. docs/kernels.md has
// the essay.
#pragma once

#include "kernels/cells.cuh"
#include "kernels/columns.cuh"
#include "kernels/launchers.h"
#include "kernels/row_tiles.cuh"

namespace lstm_fused {

// x of a tile of rows on its way to shared memory, as more columns of h: threads carry 16 bytes of a row each, from one
// step to the next. Without input chunks there is nothing to carry.
template <class A, int kInputChunks>
class InputTile {
 public:
  using T = Element<A>;

  LSTM_FUSED_DEVICE InputTile(const LayerShape& s, const ForwardParams<T, Accumulator<T>>& p, int64_t first_row,
                              int64_t t)
      : width(static_cast<int>(p.input_size)),
        direction(p.reverse ? -1 : 1),
        stride(direction * s.batch * p.input_size),
        whole(rows_are_aligned<A>(p.x, p.input_size)),
        t(static_cast<int>(t)) {
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      const int64_t b = first_row + row(n);
      length[n] = exists(n) && b < s.batch ? static_cast<int>(Clock{s, p.reverse}.length(b)) : 0;
      from[n] = p.x + (t * s.batch + b) * p.input_size + k(n);
    }
  }
  // Sends for the first step. What lies past a row's end is never read.
  LSTM_FUSED_DEVICE void fetch() {
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      if (!exists(n)) break;
      load(n);
    }
    t += direction;
  }
  // To a tile what was sent for, and sends for the step after.
  template <class Tiles>
  LSTM_FUSED_DEVICE void pass(const Tiles& tiles, char* tile, int begin) {
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      if (!exists(n)) break;
      tiles.store(tile, row(n), begin + k(n), as_factors<A>(carried[n]));
      load(n);
    }
    t += direction;
  }

 private:
  static constexpr int kLoads = static_cast<int>(kTileRows) * kInputChunks * kPairs;  // of the block
  static constexpr int kMost = (kLoads + kWarpSize - 1) / kWarpSize;  // of a thread, in a block of one warp
  LSTM_FUSED_DEVICE int at(int n) const { return thread_index() + n * num_threads(); }
  LSTM_FUSED_DEVICE bool exists(int n) const { return at(n) < kLoads; }
  LSTM_FUSED_DEVICE int row(int n) const { return at(n) / (kLoads / static_cast<int>(kTileRows)); }
  LSTM_FUSED_DEVICE int k(int n) const { return at(n) % (kLoads / static_cast<int>(kTileRows)) * kLaneElements<A>; }

  LSTM_FUSED_DEVICE void load(int n) {
    const bool takes_part = static_cast<unsigned>(t) < static_cast<unsigned>(length[n]);
    if (whole)
      carried[n] = load_global_if(takes_part && k(n) < width, reinterpret_cast<const Vector16*>(from[n]));
    else
      carried[n] = takes_part ? load_factors_one_by_one<A>(from[n], 0, width - k(n)) : Vector16{};
    from[n] += stride;
  }

  const int width, direction;
  const int64_t stride;  // from step to step
  const bool whole;      // rows begin and end at a multiple of 16 bytes
  int t, length[kMost];
  const T* from[kMost];
  Vector16 carried[kMost] = {};
};
template <class A>
class InputTile<A, 0> {
 public:
  template <class... Any>
  LSTM_FUSED_DEVICE explicit InputTile(const Any&...) {}
  LSTM_FUSED_DEVICE void fetch() const {}
  template <class... Any>
  LSTM_FUSED_DEVICE void pass(const Any&...) const {}
};

// x W_ih^T a whole step ahead, unless a block's threads are so many that they have few registers each.
template <class A, int kHiddenChunks, int kInputChunks>
constexpr Input kBlockInput =
    kInputChunks > 0                                                      ? Input::kNone
    : block_forward_threads(kHiddenChunks * kChunkElements<A>) > kThreads ? Input::kLoaded
                                                                          : Input::kPrefetched;

// A warp takes 8 units. With kInputChunks x is multiplied here too.
template <class A, int kHiddenChunks, int kInputChunks, bool kTraining, class CellKind>
LSTM_FUSED_KERNEL(block_forward_threads(kHiddenChunks* kChunkElements<A>), kHiddenChunks + kInputChunks == 2 ? 2 : 1)
lstm_block_forward_kernel(LSTM_FUSED_PARAMS ForwardArgumentsOf<CellKind, A> arguments) {
  constexpr int kChunks = kHiddenChunks + kInputChunks, kInputBegin = kHiddenChunks * kChunkElements<A>;
  using Acc = Accumulator<Element<A>>;
  const LayerShape s = arguments.shape;  // in registers
  const auto& p = arguments.direction[block_index().y];
  const int64_t first_row = block_index().x * kTileRows, width = s.hidden_size;
  const int num_steps = static_cast<int>(longest(Clock{s, p.reverse}, first_row));

  const int64_t unit = warp_index() * kTileUnits + lane_group();
  const bool w_hh_aligned = rows_are_aligned<A>(p.w_hh, width);
  bool w_ih_aligned = false;
  if constexpr (kInputChunks > 0) w_ih_aligned = rows_are_aligned<A>(p.w_ih, p.input_size);
  const auto load = [&](int chunk, int gate) {
    const int k = chunk * kChunkElements<A> + lane_pair() * kLaneElements<A>;
    const int64_t row = gate * width + unit;
    if constexpr (kInputChunks > 0)
      if (chunk >= kHiddenChunks)
        return load_factors<A>(p.w_ih + row * p.input_size, k - kInputBegin, p.input_size, w_ih_aligned);
    return load_factors<A>(p.w_hh + row * width, k, width, w_hh_aligned);
  };
  Vector16 weights[kChunks][kNumGates] = {};
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk)
#pragma unroll
    for (int gate = 0; gate < kNumGates; ++gate)
      if (unit < width) weights[chunk][gate] = load(chunk, gate);

  const int column = lane_pair() * kColumns;
  constexpr Input kInput = kBlockInput<A, kHiddenChunks, kInputChunks>;
  using Sums = Product<A, kNumGates, kInput == Input::kNone ? 2 : 1>;
  typename CellKind::template Forward<A, kColumns, kTraining, kInput> cells(s, p, unit);
  cells.move_to(first_row + column, num_steps, 0);
  RowTiles<A, kChunks> tiles;
  InputTile<A, kInputChunks> x(s, p, first_row, p.reverse ? num_steps - 1 : 0);
  const auto put = [&](char* tile) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) tiles.store(tile, column + n, static_cast<int>(unit), cells.factor(n));
  };

  // Of one of the two tiles.
  const auto multiply = [&](const char* tile, int first_chunk, int end_chunk, Sums& sums) {
#pragma unroll
    for (int chunk = first_chunk; chunk < end_chunk; ++chunk)
      sums.add(weights[chunk], [&](int n) { return tiles.load(tile, n, chunk); }, chunk);
  };

  tiles.clear();
  block_barrier();
  cells.begin();
  put(tiles.current);
  x.fetch();
  x.pass(tiles, tiles.current, kInputBegin);
  x.pass(tiles, tiles.next, kInputBegin);
  block_barrier();
  Sums product;
  multiply(tiles.current, kHiddenChunks, kChunks, product);
  if constexpr (kInputChunks > 0) block_barrier();
  for (int left = num_steps; left > 0; --left) {
    multiply(tiles.current, 0, kHiddenChunks, product);
    // While products wait for one another: what the last step left, and what the next one needs.
    cells.store();
    cells.prefetch();
    product.finish();
    Gates<Acc> sums[kColumns];
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
      sums[n] = {product.at(0, n), product.at(1, n), product.at(2, n), product.at(3, n)};
    product = Sums();
    multiply(tiles.next, kHiddenChunks, kChunks, product);
    cells.step(sums);
    put(tiles.next);
    x.pass(tiles, tiles.current, kInputBegin);
    cells.advance();
    cells.load();
    block_barrier();
    tiles.turn();
  }
  cells.store();
  cells.finish();
}

// A warp takes 16 units, two per lane. The tile in shared memory is grad_gates of the step after, unit by unit, gate by
// gate, so that a lane stores its cell's four gates at once: element k = 4 * unit + gate.
template <class A, int kHiddenChunks, class CellKind>
LSTM_FUSED_KERNEL(block_backward_threads(kHiddenChunks* kChunkElements<A>), 1)
lstm_block_backward_kernel(LSTM_FUSED_PARAMS BackwardArgumentsOf<CellKind, A> arguments) {
  using T = Element<A>;
  constexpr int kChunks = kNumGates * kHiddenChunks, kUnits = 2;
  const LayerShape s = arguments.shape;  // in registers
  const auto& p = arguments.direction[block_index().y];
  const int64_t first_row = block_index().x * kTileRows;
  const int num_steps = static_cast<int>(longest(Clock{s, p.reverse}, first_row));

  const int column = lane_pair() * kColumns, first_unit = warp_index() * kUnits * static_cast<int>(kTileUnits);
  // Without tensor cores, products take most registers, and long enough by themselves.
  constexpr bool kPrefetch = A::kTensorCore && CellKind::kPrefetch;
  typename CellKind::template Backward<A, kUnits, kColumns, kPrefetch> cells(s, p, first_unit + lane_group());
  cells.move_to(first_row + column, num_steps, 0);
  cells.begin();
  if constexpr (kPrefetch) cells.load();
  Vector16 weights[kChunks][kUnits];  // columns of W_hh
  load_columns(Columns<A>(p.w_hh, s.hidden_size), first_unit, 0, kChunks, weights);

  RowTiles<A, kChunks> tiles;
  Accumulator<T> sums[kUnits][kColumns];
  const auto multiply = [&](auto&& meanwhile) {
    Product<A, kUnits, 4> product;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk)
      product.add(weights[chunk], [&](int n) { return tiles.load(n, chunk); }, chunk);
    meanwhile();
    product.finish();
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int n = 0; n < kColumns; ++n) sums[u][n] = product.at(u, n);
  };
  tiles.clear();
  block_barrier();
  for (int left = num_steps; left > 0; --left) {
    multiply([&] {
      cells.store();
      kPrefetch ? cells.prefetch() : cells.load();
    });
    cells.step(sums);
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
        tiles.store(tiles.next, column + n, kNumGates * cells.unit(u), cells.factors(u, n));
    cells.advance();
    block_barrier();
    tiles.turn();
  }
  cells.store();
  multiply([] {});
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
#pragma unroll
    for (int n = 0; n < kColumns; ++n) cells.finish(u, n, sums[u][n]);
}

// ---- launchers

template <class CellKind, class A, int kHiddenChunks, int kInputChunks>
int launch_block_forward(const ForwardArgumentsOf<CellKind, A>& arguments, const Launch& launch, void* stream) {
  const auto kernel = launch.training ? lstm_block_forward_kernel<A, kHiddenChunks, kInputChunks, true, CellKind>
                                      : lstm_block_forward_kernel<A, kHiddenChunks, kInputChunks, false, CellKind>;
  const LayerShape& s = arguments.shape;
  Grid grid;
  grid.blocks = {static_cast<int>(ceil_div(s.batch, kTileRows)), static_cast<int>(launch.num_directions), 1};
  grid.threads = static_cast<int>(block_forward_threads(s.hidden_size));
  grid.shared_bytes = block_forward_shared_bytes({kHiddenChunks, kInputChunks});
  static_assert(2 * RowTiles<A, kHiddenChunks + kInputChunks>::kTileBytes ==
                block_forward_shared_bytes({kHiddenChunks, kInputChunks}));
  return launch_kernel(kernel, grid, stream, arguments);
}

template <class CellKind, class A, int kHiddenChunks>
int launch_block_backward(const BackwardArgumentsOf<CellKind, A>& arguments, const Launch& launch, void* stream) {
  const LayerShape& s = arguments.shape;
  Grid grid;
  grid.blocks = {static_cast<int>(ceil_div(s.batch, kTileRows)), static_cast<int>(launch.num_directions), 1};
  grid.threads = static_cast<int>(block_backward_threads(s.hidden_size));
  grid.shared_bytes = block_backward_shared_bytes({kHiddenChunks, 0});
  static_assert(2 * RowTiles<A, kNumGates * kHiddenChunks>::kTileBytes ==
                block_backward_shared_bytes({kHiddenChunks, 0}));
  return launch_kernel(lstm_block_backward_kernel<A, kHiddenChunks, CellKind>, grid, stream, arguments);
}

// Plain cells alone have a kernel that multiplies x itself.
template <class CellKind, class A>
int run_block_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  constexpr DType kType = dtype_of<A>;
  constexpr BlockVariant kSmall = block_variant(kType, 1, true),
                         kLarge = block_variant(kType, block_max_hidden(kType), false);
  const auto arguments = make_arguments<ForwardArgumentsOf<CellKind, A>>(launch, shape, params);
  if constexpr (std::is_same_v<CellKind, PlainCells>)
    if (launch.fuses_input)
      return launch_block_forward<CellKind, A, kSmall.hidden_chunks, kSmall.input_chunks>(arguments, launch, stream);
  return block_variant(kType, shape.hidden_size, false).hidden_chunks == kLarge.hidden_chunks
             ? launch_block_forward<CellKind, A, kLarge.hidden_chunks, 0>(arguments, launch, stream)
             : launch_block_forward<CellKind, A, kSmall.hidden_chunks, 0>(arguments, launch, stream);
}

template <class CellKind, class A>
int run_block_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  constexpr DType kType = dtype_of<A>;
  constexpr BlockVariant kSmall = block_variant(kType, 1, false),
                         kLarge = block_variant(kType, block_max_hidden(kType), false);
  const auto arguments = make_arguments<BackwardArgumentsOf<CellKind, A>>(launch, shape, params);
  return block_variant(kType, shape.hidden_size, false).hidden_chunks == kLarge.hidden_chunks
             ? launch_block_backward<CellKind, A, kLarge.hidden_chunks>(arguments, launch, stream)
             : launch_block_backward<CellKind, A, kSmall.hidden_chunks>(arguments, launch, stream);
}

template <DType kType>
int block_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    return run_block_forward<PlainCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}

template <DType kType>
int block_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    return run_block_backward<PlainCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}

}  // namespace lstm_fused
