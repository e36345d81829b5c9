// The persistent kernels of kind `group`: blocks all over the GPU hold W_hh in registers and shared memory between
// them, and send each other h, or grad_gates, through global memory once per step. docs/kernels.md has the essay.
#pragma once

#include "kernels/group_stack.cuh"
#include "kernels/launchers.h"

namespace lstm_fused {

template <bool kStacked>
constexpr int kMostSideBySide = kStacked ? static_cast<int>(kGroupMostLayers) : 2;
template <class A, bool kStacked>
using GroupForwardArguments = GroupArguments<ForwardArguments<Element<A>, kMostSideBySide<kStacked>>>;
template <class A, bool kStacked>
using GroupBackwardArguments = GroupArguments<BackwardArguments<Element<A>, kMostSideBySide<kStacked>>>;

// grid: the blocks of a group side by side; groups for the rows of the batch; directions, or layers of a stack. A block
// has 16 units.
template <class A, bool kTraining, bool kStacked>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_group_forward_kernel(LSTM_FUSED_PARAMS GroupForwardArguments<A, kStacked> arguments) {
  using T = Element<A>;
  constexpr int kLines = kGroupLines<false>;
  using Stack = std::conditional_t<kStacked, StackedForward<A, GroupForwardArguments<A, kStacked>>, SingleLayer>;
  using Cells = ForwardCells<A, 1, kTraining, Input::kAtOnce>;
  using Carried = typename Cells::Carried;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];
  const Clock clock{s, p.reverse};
  const int width = static_cast<int>(s.hidden_size);

  const GroupSums<kNumGates> sums{shared_memory()};
  char* const memory = shared_memory() + GroupSums<kNumGates>::kBytes;
  Turns turns(clock, arguments.rows_per_group, 0, memory);
  const bool many = turns.num_tiles > 1;
  const Exchange<T> exchange(arguments);
  const int first_unit = exchange.first_unit();
  const auto time = [&](int tile, uint32_t step) -> int64_t {
    return p.reverse ? turns.num_steps(tile) - 1 - step : step;
  };

  const bool aligned = rows_are_aligned<A>(p.w_hh, width);
  const GroupWeights<A, kLines, kInRegisters<A, kStacked, /*kBackward=*/false>> weights(
      memory + kGroupMostTiles * sizeof(int), arguments.part_chunks,
      [&](int line, int k) { return load_line<A>(p.w_hh, width, aligned, first_unit, line, k); });
  Stack stack(arguments, turns, first_unit, weights.end());
  block_barrier();

  Cells cells(s, p, turns.first_row + cell_row(), first_unit + cell_unit());
  for (int tile = 0; tile < turns.num_tiles && has_cell(); ++tile) {
    const bool steps = turns.num_steps(tile) > 0;
    if (many) cells.move_to(turns.row_of(tile) + cell_row());
    if (steps) cells.fetch(time(tile, 0));
    cells.begin();
    exchange.begin(tile, cells.factor(0));
    if (many) store_global(exchange.template keep<Carried>(tile), cells.carried(0));
    if (!steps) cells.finish();
  }

  Product<A, kLines> product;
  const auto begin = [&](const Turns::Turn& turn) {
    product = {};
    stack.multiply(turn, product);
  };
  const auto multiply = [&](const Turns::Turn& turn) {
    if (has_cell()) {
      if (many) {
        cells.move_to(turns.row_of(turn.tile) + cell_row());
        cells.resume(0, load_global(exchange.template keep<Carried>(turn.tile)));
      }
      // On its way while the product runs.
      if (stack.is_first()) cells.prepare(time(turn.tile, turn.step));
      stack.prepare(turn);
      if (turn.step + 1 < turns.num_steps(turn.tile)) cells.fetch(time(turn.tile, turn.step + 1));
    }
    weights.multiply(exchange.rows(turn), product);
    sums.put(product);
  };
  take_turns(turns, exchange, stack, begin, multiply, [&](const Turns::Turn& turn) {
    const T h = cells.step(time(turn.tile, turn.step), 0, {sums.total(0), sums.total(1), sums.total(2), sums.total(3)});
    stack.send(turn, h);
    if (turn.step + 1 == turns.num_steps(turn.tile)) return cells.finish();
    exchange.send(turn, cells.factor(0));
    cells.turn();
    if (many) store_global(exchange.template keep<Carried>(turn.tile), cells.carried(0));
  });
}

// What travels is grad_gates of the step after, unit by unit, gate by gate. A tile's last turn is for h_0.
template <class A, bool kStacked>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_group_backward_kernel(LSTM_FUSED_PARAMS GroupBackwardArguments<A, kStacked> arguments) {
  using T = Element<A>;
  using V = GateFactors<T>;
  constexpr int kLines = kGroupLines<true>;
  using Stack = std::conditional_t<kStacked, StackedBackward<A, GroupBackwardArguments<A, kStacked>>, SingleLayer>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];
  const Clock clock{s, p.reverse};

  const GroupSums<1> sums{shared_memory()};  // and beside them, in a stack, those from the layer above
  char* const memory = shared_memory() + (kStacked ? 2 : 1) * GroupSums<1>::kBytes;
  Turns turns(clock, arguments.rows_per_group, 1, memory);
  const bool many = turns.num_tiles > 1;
  const Exchange<V> exchange(arguments);
  const int first_unit = exchange.first_unit();
  const auto time = [&](const Turns::Turn& turn) -> int64_t {
    return p.reverse ? turn.step : turns.num_steps(turn.tile) - 1 - turn.step;
  };
  const auto is_last = [&](const Turns::Turn& turn) { return turn.step == turns.num_steps(turn.tile); };

  const GroupWeights<A, kLines, kInRegisters<A, kStacked, /*kBackward=*/true>> weights(
      memory + kGroupMostTiles * sizeof(int), arguments.part_chunks, [&](int line, int k) {
        return load_column<A>(p.w_hh, s.hidden_size, first_unit + line * kGroups + lane_group(), k);
      });
  Stack stack(arguments, turns, first_unit, weights.end());
  block_barrier();

  BackwardCells<A, 1, 1> cells(s, p, turns.first_row + cell_row(), first_unit + cell_unit());
  for (int tile = 0; tile < turns.num_tiles && has_cell(); ++tile) {
    exchange.begin(tile, V{});
    if (many) store_global(exchange.template keep<float>(tile), 0.0f);
  }

  const auto multiply = [&](const Turns::Turn& turn) {
    if (has_cell()) {
      if (many) {
        cells.move_to(turns.row_of(turn.tile) + cell_row());
        cells.resume(0, 0, load_global(exchange.template keep<float>(turn.tile)));
      }
      // On its way while the product runs; without tensor cores, that takes all registers, and long enough by itself.
      if (A::kTensorCore && !is_last(turn)) cells.fetch(time(turn));
      stack.prepare(turn);
    }
    Product<A, kLines> product;
    weights.multiply(exchange.rows(turn), product);
    sums.put(product);
  };
  const auto begin = [&](const Turns::Turn& turn) { stack.multiply(turn); };
  take_turns(turns, exchange, stack, begin, multiply, [&](const Turns::Turn& turn) {
    if (is_last(turn)) return cells.finish(0, 0, sums.total(0), kStacked ? turns.num_steps(turn.tile) : 0);
    const int64_t t = time(turn);
    if (!A::kTensorCore) cells.fetch(t);
    // A row that is not yet or no longer there: its gradient waits.
    const bool steps = cells.has_unit(0) && cells.active(t, 0);
    if (kStacked && !steps) cells.skip(t, 0, 0);  // a layer below reads grad_gates of this turn
    exchange.send(turn, steps ? cells.step(t, 0, 0, stack.with_above(turn, sums.total(0))) : exchange.mine(turn));
    if (many) store_global(exchange.template keep<float>(turn.tile), cells.carried(0, 0));
  });
}

// ---- launchers

template <class A, bool kStacked, bool kBackward, class Layer>
int launch_group(void (*kernel)(const GroupArguments<Layer>), const Launch& launch, const LayerShape& shape,
                 const void* params, void* stream) {
  static_assert(sizeof(GroupArguments<Layer>) <= 4096);  // any device takes as many bytes of parameters
  constexpr GroupVariant kVariant{dtype_of<A>, A::kTensorCore, kStacked, kBackward};
  const GroupArguments<Layer> arguments{make_arguments<Layer>(launch, shape, params), launch.rows_per_group,
                                        static_cast<int>(group_blocks(shape.hidden_size)),
                                        static_cast<int>(group_row_tiles(shape.batch)),
                                        static_cast<int>(group_part_chunks(dtype_of<A>, shape.hidden_size, kBackward))};
  Grid grid;
  grid.blocks = {arguments.num_blocks, static_cast<int>(ceil_div(shape.batch, launch.rows_per_group)),
                 static_cast<int>(launch.num_directions * launch.num_layers)};
  grid.threads = static_cast<int>(kThreads);
  grid.shared_bytes = group_shared_bytes(kVariant, shape.hidden_size);
  grid.together = true;
  return launch_kernel(kernel, grid, stream, arguments);
}

template <class A, bool kStacked>
int run_group_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  static_assert(sizeof(typename ForwardCells<A, 1, true, Input::kAtOnce>::Carried) == kGroupCarriedBytes);
  return launch_group<A, kStacked, false>(
      launch.training ? lstm_group_forward_kernel<A, true, kStacked> : lstm_group_forward_kernel<A, false, kStacked>,
      launch, shape, params, stream);
}

template <class A, bool kStacked>
int run_group_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return launch_group<A, kStacked, true>(lstm_group_backward_kernel<A, kStacked>, launch, shape, params, stream);
}

template <DType kType>
int group_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    return launch.num_layers > 1 ? run_group_forward<A, true>(launch, shape, params, stream)
                                 : run_group_forward<A, false>(launch, shape, params, stream);
  });
}

template <DType kType>
int group_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    return launch.num_layers > 1 ? run_group_backward<A, true>(launch, shape, params, stream)
                                 : run_group_backward<A, false>(launch, shape, params, stream);
  });
}

}  // namespace lstm_fused
