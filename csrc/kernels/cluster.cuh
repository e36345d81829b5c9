// The persistent kernels of kind `cluster`: the blocks of a cluster hold W_hh in registers between them, and send each
// other h, or grad_gates, through distributed shared memory once per step. docs/kernels.md has the essay.
#pragma once

#include "kernels/cells.cuh"
#include "kernels/cluster_exchange.cuh"
#include "kernels/columns.cuh"
#include "kernels/launchers.h"

namespace lstm_fused {

// grid: the blocks of a cluster side by side, clusters for the row tiles; directions. Warps take 8 units, kSplit warps
// the same.
template <class A, int kPartChunks, int kSplit, bool kTraining, class CellKind>
LSTM_FUSED_KERNEL(kClusterThreads, 1)
lstm_cluster_forward_kernel(LSTM_FUSED_PARAMS ForwardArgumentsOf<CellKind, A> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  constexpr int kRows = kColumns / kSplit, kUnits = static_cast<int>(kTileUnits);
  using Warps = Team<A, kSplit, kNumGates * kRows, T, kUnits>;
  const LayerShape s = arguments.shape;  // in registers
  const auto& p = arguments.direction[block_index().y];
  const Clock clock{s, p.reverse};
  const int num_blocks = cluster_size(), width = static_cast<int>(s.hidden_size);
  const int64_t first_row = block_index().x / num_blocks * kTileRows, num_steps = longest(clock, first_row);

  using Box = Mailbox<A, kPartChunks * kSplit>;
  Box mailbox(static_cast<int>(kTileRows * sizeof(T)) * ((width + kUnits - 1) / kUnits * kUnits));
  Warps team(shared_memory() + Box::kBytes);
  const int first_unit = cluster_rank() * static_cast<int>(arguments.units_per_block) + team.tile * kUnits;
  const int unit = first_unit + lane_group();

  const Part part(team.part, kSplit, s.hidden_size * sizeof(T));
  Vector16 weights[kPartChunks][kNumGates] = {};
  const bool aligned = rows_are_aligned<A>(p.w_hh, width);
#pragma unroll
  for (int chunk = 0; chunk < kPartChunks; ++chunk)
#pragma unroll
    for (int gate = 0; gate < kNumGates; ++gate) {
      const int k = (part.first + chunk) * kChunkElements<A> + lane_pair() * kLaneElements<A>;
      if (unit < width && chunk < part.count)
        weights[chunk][gate] = load_factors<A>(p.w_hh + (int64_t{gate} * width + unit) * width, k, width, aligned);
    }

  const int column = lane_pair() * kColumns + team.part * kRows;
  using Cells = typename CellKind::template Forward<A, kRows, kTraining, Input::kLoaded>;
  Cells cells(s, p, unit);
  cells.move_to(first_row + column, num_steps, 0);
  if (num_steps > 0) {
    for (int at = thread_index(); at < static_cast<int>(kTileRows) * width; at += num_threads()) {
      const int64_t b = first_row + at / width, t = p.reverse ? num_steps - 1 : 0;
      if (b >= s.batch || (t < clock.length(b) && clock.before(t, b) == Before::kNothing)) continue;
      mailbox.tiles.store(mailbox.tiles.current, at / width, at % width,
                          Cells::first_factor(p, b * width + at % width));
    }
  }
  cells.begin();
  cells.store();  // nothing yet
  cluster_arrive();
  cluster_wait();
  // Whoever reads a tile has to send, for that is how the others know that it has been read. And nobody waits for a
  // warp that sends nothing, so it may be overtaken twice, and an mbarrier tells only of the phase before the present
  // one.
  if (first_unit >= width) return;

  for (int64_t step = 0; step < num_steps; ++step) {
    const bool last = step + 1 == num_steps;
    Product<A, kNumGates, 2> product;
    part.multiply(weights, mailbox.tiles, product);
    if (!last) mailbox.expect();
    product.finish();
    Acc values[kSplit][kNumGates * kRows], sums[kNumGates * kRows];
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int gate = 0; gate < kNumGates; ++gate)
        values[n / kRows][n % kRows * kNumGates + gate] = product.at(gate, n);
    team.combine(values, sums);
    Gates<Acc> recurrent[kRows];
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const Acc* const of = sums + n * kNumGates;
      recurrent[n] = {of[0], of[1], of[2], of[3]};
    }
    cells.step(recurrent);
#pragma unroll
    for (int n = 0; n < kRows; ++n) team.put(column + n, lane_group(), cells.factor(n));
    if (!last) team.send(mailbox, num_blocks, first_unit);
    // While h is on its way.
    cells.advance();
    cells.store();
    if (last) break;
    cells.load();
    mailbox.receive();
  }
  cells.finish();
}

// Warps take 16 units, two per lane, kSplit warps the same. What travels is grad_gates of the step after, unit by unit,
// gate by gate.
template <class A, int kPartChunks, int kSplit, class CellKind>
LSTM_FUSED_KERNEL(kClusterThreads, 1)
lstm_cluster_backward_kernel(LSTM_FUSED_PARAMS BackwardArgumentsOf<CellKind, A> arguments) {
  using T = Element<A>;
  using Acc = Accumulator<T>;
  // Each of kSplit parts keeps kLaneUnits units of kRows rows: two parts a row each, four parts a cell each.
  constexpr int kUnits = 2, kTile = kUnits * static_cast<int>(kTileUnits);
  constexpr int kRows = 1, kLaneUnits = kUnits * kColumns / kSplit;
  using Warps = Team<A, kSplit, kLaneUnits, GateFactors<T>, kTile>;
  const LayerShape s = arguments.shape;  // in registers
  const auto& p = arguments.direction[block_index().y];
  const int num_blocks = cluster_size(), width = static_cast<int>(s.hidden_size);
  const int64_t first_row = block_index().x / num_blocks * kTileRows;
  const int64_t num_steps = longest(Clock{s, p.reverse}, first_row);

  using Box = Mailbox<A, kPartChunks * kSplit>;
  Box mailbox(static_cast<int>(kTileRows * sizeof(GateFactors<T>)) * ((width + kTile - 1) / kTile * kTile));
  Warps team(shared_memory() + Box::kBytes);
  const int first_unit = cluster_rank() * static_cast<int>(arguments.units_per_block) + team.tile * kTile;

  const int my_column = lane_pair() * kColumns + team.part % kColumns;
  const int my_unit = lane_group() + team.part / kColumns * static_cast<int>(kTileUnits);
  typename CellKind::template Backward<A, kLaneUnits, kRows, false> cells(s, p, first_unit + my_unit);
  cells.move_to(first_row + my_column, num_steps, 0);
  cells.begin();
  cells.load();
  const Part part(team.part, kSplit, s.hidden_size * sizeof(GateFactors<T>));
  Vector16 weights[kPartChunks][kUnits];  // columns of W_hh
  load_columns(Columns<A>(p.w_hh, s.hidden_size), first_unit, part.first * kChunkElements<A>, part.count, weights);
  cluster_arrive();
  cluster_wait();
  if (first_unit >= width) return;  // as in forward

  Acc sums[kLaneUnits][kRows];
  const auto multiply = [&](auto&& meanwhile) {
    Product<A, kUnits, 4> product;
    part.multiply(weights, mailbox.tiles, product);
    meanwhile();
    product.finish();
    Acc values[kSplit][kLaneUnits], kept[kLaneUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
#pragma unroll
      for (int n = 0; n < kColumns; ++n) values[u / kLaneUnits * kColumns + n][u % kLaneUnits] = product.at(u, n);
    team.combine(values, kept);
#pragma unroll
    for (int u = 0; u < kLaneUnits; ++u) sums[u][0] = kept[u];
  };
  for (int64_t step = 0; step < num_steps; ++step) {
    multiply([&] { mailbox.expect(); });
    cells.step(sums);
#pragma unroll
    for (int u = 0; u < kLaneUnits; ++u) {
      team.put(my_column, my_unit + u * static_cast<int>(kTileUnits), cells.factors(u, 0));
    }
    team.send(mailbox, num_blocks, kNumGates * first_unit);
    // While grad_gates are on their way.
    cells.advance();
    cells.store();
    cells.load();
    mailbox.receive();
  }
  multiply([] {});
#pragma unroll
  for (int u = 0; u < kLaneUnits; ++u) cells.finish(u, 0, sums[u][0]);
}

// ---- launchers

inline Grid cluster_grid(const Launch& launch, const LayerShape& s, int64_t threads, int64_t shared_bytes) {
  const int64_t size = launch.blocks_per_group;
  return {{static_cast<int>(ceil_div(s.batch, kTileRows) * size), static_cast<int>(launch.num_directions), 1},
          static_cast<int>(threads),
          shared_bytes,
          static_cast<int>(size)};
}

template <class CellKind, class A, int kSplit>
int launch_cluster_forward(const ForwardArgumentsOf<CellKind, A>& arguments, const Launch& launch, void* stream) {
  constexpr int kPartChunks = static_cast<int>(kClusterForwardChunks), kKept = kNumGates * kColumns / kSplit;
  constexpr int64_t kOfTile = Team<A, kSplit, kKept, Element<A>, kTileUnits>::kBytes;
  static_assert(cluster_forward_shared_bytes(dtype_of<A>, kSplit, kTileUnits) ==
                Mailbox<A, kPartChunks * kSplit>::kBytes + kOfTile);
  const LayerShape& s = arguments.shape;
  const int64_t units = cluster_units(s.hidden_size, launch.blocks_per_group);
  const Grid grid = cluster_grid(launch, s, kWarp * units / kTileUnits * kSplit,
                                 cluster_forward_shared_bytes(dtype_of<A>, kSplit, units));
  const auto kernel = launch.training ? lstm_cluster_forward_kernel<A, kPartChunks, kSplit, true, CellKind>
                                      : lstm_cluster_forward_kernel<A, kPartChunks, kSplit, false, CellKind>;
  return launch_kernel(kernel, grid, stream, arguments);
}

template <class CellKind, class A, int kSplit>
int launch_cluster_backward(const BackwardArgumentsOf<CellKind, A>& arguments, const Launch& launch, void* stream) {
  constexpr int kPartChunks = static_cast<int>(kClusterBackwardChunks), kUnits = static_cast<int>(kClusterUnits);
  constexpr int64_t kOfTile = Team<A, kSplit, 2 * kColumns / kSplit, GateFactors<Element<A>>, kUnits>::kBytes;
  static_assert(cluster_backward_shared_bytes(dtype_of<A>, kSplit, kUnits) ==
                Mailbox<A, kPartChunks * kSplit>::kBytes + kOfTile);
  const LayerShape& s = arguments.shape;
  const int64_t units = cluster_units(s.hidden_size, launch.blocks_per_group);
  const Grid grid = cluster_grid(launch, s, kWarp * units / kClusterUnits * kSplit,
                                 cluster_backward_shared_bytes(dtype_of<A>, kSplit, units));
  return launch_kernel(lstm_cluster_backward_kernel<A, kPartChunks, kSplit, CellKind>, grid, stream, arguments);
}

template <class CellKind, class A>
int run_cluster_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  const auto arguments = make_arguments<ForwardArgumentsOf<CellKind, A>>(launch, shape, params);
  return cluster_split(dtype_of<A>, shape.hidden_size) == 1
             ? launch_cluster_forward<CellKind, A, 1>(arguments, launch, stream)
             : launch_cluster_forward<CellKind, A, 2>(arguments, launch, stream);
}
template <class CellKind, class A>
int run_cluster_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  const auto arguments = make_arguments<BackwardArgumentsOf<CellKind, A>>(launch, shape, params);
  return cluster_split(dtype_of<A>, shape.hidden_size) == 1
             ? launch_cluster_backward<CellKind, A, 2>(arguments, launch, stream)
             : launch_cluster_backward<CellKind, A, 4>(arguments, launch, stream);
}

template <DType kType>
int cluster_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    return run_cluster_forward<PlainCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}

template <DType kType>
int cluster_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    return run_cluster_backward<PlainCells, decltype(arithmetic)>(launch, shape, params, stream);
  });
}

}  // namespace lstm_fused
