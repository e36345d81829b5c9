// The persistent kernels of kind `cluster`: the blocks of a cluster hold W_hh in registers between them, and send each
// other h, or grad_gates, through distributed shared memory once per step. docs/kernels.md has the essay.
#pragma once

#include "kernels/arguments.h"
#include "kernels/cluster_primitives.cuh"
#include "kernels/lane_cells.cuh"
#include "kernels/launchers.h"
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

// grid: the blocks of a cluster side by side, clusters for the row tiles; directions. Warps take 8 units, kSplit warps
// the same.
template <class A, int kPartChunks, int kSplit, bool kTraining>
LSTM_FUSED_KERNEL(kClusterThreads, 1)
lstm_cluster_forward_kernel(LSTM_FUSED_PARAMS ForwardArguments<Element<A>> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  constexpr int kRows = kColumns / kSplit, kUnits = static_cast<int>(kTileUnits);
  using Warps = Team<A, kSplit, kNumGates * kRows, T, kUnits>;
  const LayerShape& s = arguments.shape;
  const auto& p = arguments.direction[block_index().y];
  const Clock clock{s, p.reverse};
  const int num_blocks = cluster_size(), width = static_cast<int>(s.hidden_size);
  const int64_t first_row = block_index().x / num_blocks * kTileRows, num_steps = longest(clock, first_row);
  const auto time = [&](int64_t step) { return p.reverse ? num_steps - 1 - step : step; };

  using Box = Mailbox<A, kPartChunks * kSplit>;
  Box mailbox(static_cast<int>(kTileRows * sizeof(T)) * ((width + kUnits - 1) / kUnits * kUnits));
  Warps team(shared_memory() + Box::kBytes);
  const int first_unit = cluster_rank() * static_cast<int>(arguments.units_per_block) + team.tile * kUnits;
  const int unit = first_unit + lane_group();

  Vector16 weights[kPartChunks][kNumGates] = {};
  const bool aligned = rows_are_aligned<A>(p.w_hh, width);
#pragma unroll
  for (int chunk = 0; chunk < kPartChunks; ++chunk)
#pragma unroll
    for (int gate = 0; gate < kNumGates; ++gate) {
      const int k = (team.part * kPartChunks + chunk) * kChunkElements<A> + lane_pair() * kLaneElements<A>;
      if (unit < width)
        weights[chunk][gate] = load_factors<A>(p.w_hh + (int64_t{gate} * width + unit) * width, k, width, aligned);
    }

  const int column = lane_pair() * kColumns + team.part * kRows;
  ForwardCells<A, kRows, kTraining, Input::kAtOnce> cells(s, p, first_row + column, unit);
  if (num_steps > 0) {
    for (int at = thread_index(); at < static_cast<int>(kTileRows) * width; at += num_threads()) {
      const int64_t b = first_row + at / width, t = time(0);
      if (b >= s.batch || (t < clock.length(b) && clock.before(t, b) == Before::kNothing)) continue;
      mailbox.tiles.store(mailbox.tiles.current, at / width, at % width, as_factor<A>(p.h_0[b * width + at % width]));
    }
  }
  if (num_steps > 0) cells.fetch(time(0));
  cells.begin();
  cluster_arrive();
  cluster_wait();
  // Whoever reads a tile has to send, for that is how the others know that it has been read. And nobody waits for a
  // warp that sends nothing, so it may be overtaken twice, and an mbarrier tells only of the phase before the present
  // one.
  if (first_unit >= width) return;

  for (int64_t step = 0; step < num_steps; ++step) {
    const bool last = step + 1 == num_steps;
    cells.prepare(time(step));  // on its way while the product runs
    if (!last) {
      mailbox.expect();
      cells.fetch(time(step + 1));
    }
    Product<A, kNumGates> product;
#pragma unroll
    for (int chunk = 0; chunk < kPartChunks; ++chunk)
      product.add(weights[chunk], [&](int n) { return mailbox.tiles.load(n, team.part * kPartChunks + chunk); });
    product.finish();
    Acc values[kSplit][kNumGates * kRows], sums[kNumGates * kRows];
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int gate = 0; gate < kNumGates; ++gate)
        values[n / kRows][n % kRows * kNumGates + gate] = product.at(gate, n);
    team.combine(values, sums);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const Acc* const of = sums + n * kNumGates;
      cells.step(time(step), n, {of[0], of[1], of[2], of[3]});
      team.put(column + n, lane_group(), cells.factor(n));
    }
    if (last) break;
    team.send(mailbox, num_blocks, first_unit);
    cells.turn();
    mailbox.receive();
  }
  cells.finish();
}

// Warps take 16 units, two per lane, kSplit warps the same. What travels is grad_gates of the step after, unit by unit,
// gate by gate.
template <class A, int kPartChunks, int kSplit>
LSTM_FUSED_KERNEL(kClusterThreads, 1)
lstm_cluster_backward_kernel(LSTM_FUSED_PARAMS BackwardArguments<Element<A>> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  // Each of kSplit parts keeps kLaneUnits units of kRows rows: two parts a row each, four parts a cell each.
  constexpr int kUnits = 2, kTile = kUnits * static_cast<int>(kTileUnits);
  constexpr int kRows = 1, kLaneUnits = kUnits * kColumns / kSplit;
  using Warps = Team<A, kSplit, kLaneUnits, GateFactors<T>, kTile>;
  const LayerShape& s = arguments.shape;
  const auto& p = arguments.direction[block_index().y];
  const Clock clock{s, p.reverse};
  const int num_blocks = cluster_size(), width = static_cast<int>(s.hidden_size);
  const int64_t first_row = block_index().x / num_blocks * kTileRows, num_steps = longest(clock, first_row);

  using Box = Mailbox<A, kPartChunks * kSplit>;
  Box mailbox(static_cast<int>(kTileRows * sizeof(GateFactors<T>)) * ((width + kTile - 1) / kTile * kTile));
  Warps team(shared_memory() + Box::kBytes);
  const int first_unit = cluster_rank() * static_cast<int>(arguments.units_per_block) + team.tile * kTile;

  Vector16 weights[kPartChunks][kUnits];  // columns of W_hh
#pragma unroll
  for (int chunk = 0; chunk < kPartChunks; ++chunk)
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      weights[chunk][u] =
          load_column<A>(p.w_hh, width, first_unit + u * static_cast<int>(kTileUnits) + lane_group(),
                         (team.part * kPartChunks + chunk) * kChunkElements<A> + lane_pair() * kLaneElements<A>);

  const int my_column = lane_pair() * kColumns + team.part % kColumns;
  const int my_unit = lane_group() + team.part / kColumns * static_cast<int>(kTileUnits);
  BackwardCells<A, kLaneUnits, kRows> cells(s, p, first_row + my_column, first_unit + my_unit);
  cluster_arrive();
  cluster_wait();
  if (first_unit >= width) return;  // as in forward

  const auto multiply = [&](Acc(&sums)[kLaneUnits]) {
    Product<A, kUnits> product;
#pragma unroll
    for (int chunk = 0; chunk < kPartChunks; ++chunk)
      product.add(weights[chunk], [&](int n) { return mailbox.tiles.load(n, team.part * kPartChunks + chunk); });
    product.finish();
    Acc values[kSplit][kLaneUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int n = 0; n < kColumns; ++n) values[u / kLaneUnits * kColumns + n][u % kLaneUnits] = product.at(u, n);
    team.combine(values, sums);
  };
  Acc sums[kLaneUnits];
  for (int64_t step = num_steps - 1; step >= 0; --step) {
    const int64_t t = p.reverse ? num_steps - 1 - step : step;
    mailbox.expect();
    cells.fetch(t);  // on its way while the product runs
    multiply(sums);
#pragma unroll
    for (int u = 0; u < kLaneUnits; ++u) {
      GateFactors<T> factors{};
      if (cells.has_unit(u)) {
        // A row that is not yet or no longer there: its gradient waits.
        factors = cells.active(t, 0)
                      ? cells.step(t, u, 0, sums[u])
                      : mailbox.tiles.template load_at<GateFactors<T>>(my_column, kNumGates * cells.unit(u));
      }
      team.put(my_column, my_unit + u * static_cast<int>(kTileUnits), factors);
    }
    team.send(mailbox, num_blocks, kNumGates * first_unit);
    mailbox.receive();
  }
  multiply(sums);
#pragma unroll
  for (int u = 0; u < kLaneUnits; ++u) cells.finish(u, 0, sums[u]);
}

// ---- launchers

inline Grid cluster_grid(const Launch& launch, const LayerShape& s, int64_t threads, int64_t shared_bytes) {
  const int64_t size = launch.blocks_per_group;
  return {{static_cast<int>(ceil_div(s.batch, kTileRows) * size), static_cast<int>(launch.num_directions), 1},
          static_cast<int>(threads),
          shared_bytes,
          static_cast<int>(size)};
}

template <class A, int kSplit>
int launch_cluster_forward(const ForwardArguments<Element<A>>& arguments, const Launch& launch, void* stream) {
  constexpr int kPartChunks = static_cast<int>(kClusterForwardChunks), kKept = kNumGates * kColumns / kSplit;
  constexpr int64_t kOfTile = Team<A, kSplit, kKept, Element<A>, kTileUnits>::kBytes;
  static_assert(cluster_forward_shared_bytes(dtype_of<A>, kSplit, kTileUnits) ==
                Mailbox<A, kPartChunks * kSplit>::kBytes + kOfTile);
  const LayerShape& s = arguments.shape;
  const int64_t units = cluster_units(s.hidden_size, launch.blocks_per_group);
  const Grid grid = cluster_grid(launch, s, kWarp * units / kTileUnits * kSplit,
                                 cluster_forward_shared_bytes(dtype_of<A>, kSplit, units));
  const auto kernel = launch.training ? lstm_cluster_forward_kernel<A, kPartChunks, kSplit, true>
                                      : lstm_cluster_forward_kernel<A, kPartChunks, kSplit, false>;
  return launch_kernel(kernel, grid, stream, arguments);
}

template <class A, int kSplit>
int launch_cluster_backward(const BackwardArguments<Element<A>>& arguments, const Launch& launch, void* stream) {
  constexpr int kPartChunks = static_cast<int>(kClusterBackwardChunks), kUnits = static_cast<int>(kClusterUnits);
  constexpr int64_t kOfTile = Team<A, kSplit, 2 * kColumns / kSplit, GateFactors<Element<A>>, kUnits>::kBytes;
  static_assert(cluster_backward_shared_bytes(dtype_of<A>, kSplit, kUnits) ==
                Mailbox<A, kPartChunks * kSplit>::kBytes + kOfTile);
  const LayerShape& s = arguments.shape;
  const int64_t units = cluster_units(s.hidden_size, launch.blocks_per_group);
  const Grid grid = cluster_grid(launch, s, kWarp * units / kClusterUnits * kSplit,
                                 cluster_backward_shared_bytes(dtype_of<A>, kSplit, units));
  return launch_kernel(lstm_cluster_backward_kernel<A, kPartChunks, kSplit>, grid, stream, arguments);
}

template <class A>
int run_cluster_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  const auto arguments = make_arguments<ForwardArguments<Element<A>>>(launch, shape, params);
  return cluster_split(dtype_of<A>, shape.hidden_size) == 1 ? launch_cluster_forward<A, 1>(arguments, launch, stream)
                                                            : launch_cluster_forward<A, 2>(arguments, launch, stream);
}
template <class A>
int run_cluster_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  const auto arguments = make_arguments<BackwardArguments<Element<A>>>(launch, shape, params);
  return cluster_split(dtype_of<A>, shape.hidden_size) == 1 ? launch_cluster_backward<A, 2>(arguments, launch, stream)
                                                            : launch_cluster_backward<A, 4>(arguments, launch, stream);
}

template <DType kType>
int cluster_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    return run_cluster_forward<decltype(arithmetic)>(launch, shape, params, stream);
  });
}

template <DType kType>
int cluster_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    return run_cluster_backward<decltype(arithmetic)>(launch, shape, params, stream);
  });
}

}  // namespace lstm_fused
