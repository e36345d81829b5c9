// The persistent kernels of kind `group`: blocks all over the GPU hold W_hh in registers and shared memory between
// them, and send each other h, or grad_gates, through global memory once per step. docs/kernels.md has the essay.
#pragma once

#include "kernels/group_pairs.cuh"
#include "kernels/group_stack.cuh"
#include "kernels/launchers.h"

namespace lstm_fused {

// grid: the blocks of a group side by side; groups for the rows of the batch; directions, or layers of a stack. A block
// has 16 units.
template <class A, bool kTraining, bool kStacked, class CellKind>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_group_forward_kernel(LSTM_FUSED_PARAMS GroupForwardArguments<CellKind, A, kStacked> arguments) {
  using Given = GroupForwardArguments<CellKind, A, kStacked>;
  using T = Element<A>;
  using Turn = Turns::Turn;
  using Sums = GroupSums<kNumGates, kStacked>;
  constexpr int kLines = kGroupLines<false>;
  using Stack = std::conditional_t<kStacked, StackedForward<A, Given>, SingleLayer>;
  using Cells = typename CellKind::template Forward<A, 1, kTraining, Input::kLoaded>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];

  const Sums sums{shared_memory()};
  const GroupTiles<typename Cells::Carried> tiles{shared_memory() + kNumSums<A, kStacked> * Sums::bytes()};
  Turns turns({s, p.reverse}, arguments.rows_per_group, 0, tiles.steps(arguments.tiles_per_group));
  const Exchange<T, Given> exchange(arguments);
  const int first_unit = exchange.first_unit();

  const GroupWeights<A, kLines, kStacked> weights(tiles.end(arguments.tiles_per_group), arguments.part_chunks,
                                                  RowSource<A>(p.w_hh, s.hidden_size, first_unit));
  Stack stack(arguments, turns, first_unit, weights.end());
  block_barrier();

  Cells cells(s, p, first_unit + cell_unit());
  const auto move_to = [&](const Turn& turn) {
    cells.move_to(turns.row_of(turn.tile) + cell_row(), turns.num_steps(turn.tile), turn.step);
  };
  for (int tile = own_half(); tile < turns.num_tiles; tile += num_halves<kStacked>()) {
    move_to({tile, 0});
    cells.begin(stack.is_first());
    exchange.begin(tile, cells.factor(0));
    store_shared(tiles.carried(tile), cells.carried(0));
  }

  const auto prepare = [&](const Turn& turn, const Turn& own) {
    if (turn.tile != own.tile)
      cells.turn_to(turns.row_of(turn.tile) + cell_row(), turns.num_steps(turn.tile), turn.step);
    else
      cells.advance_by(static_cast<int>(turn.step - own.step));
    // Without tensor cores products take all registers, and long enough to look things up behind them.
    if (A::kTensorCore) cells.load_present(stack.is_first());
    stack.prepare(turn);
  };
  typename GroupWeights<A, kLines, kStacked>::Looks looks;
  const auto part = weights.part(exchange.rows());
  const auto look = [&](const Turn& turn) { weights.look(part, exchange.place(turn), looks); };
  const auto multiply = [&](const Turn& turn, int place) {
    GroupProduct<A, kLines> product;
    stack.multiply(turn, product);
    weights.multiply(part, looks, product);
    looks = {};
    sums.at(place).put(product);
  };
  const auto compute = [&](const Turn& turn, int place) {
    if (!A::kTensorCore) cells.load_present(stack.is_first());
    cells.resume(0, load_shared(tiles.carried(turn.tile)));
    const auto total = sums.at(place).total();
    cells.step({{total.of[0], total.of[1], total.of[2], total.of[3]}});
    exchange.send(turn, cells.factor(0));
    stack.send(turn, cells.hidden(0));
    store_shared(tiles.carried(turn.tile), cells.carried(0));
  };
  const auto leave = [&](const Turn&) { cells.store_present(); };
  take_turns<kNumSums<A, kStacked>, kStacked>(turns, exchange, prepare, look, multiply, compute, leave);

  block_barrier();  // another thread may have had a cell's last turn
  for (int tile = own_half(); tile < turns.num_tiles; tile += num_halves<kStacked>()) {
    move_to({tile, 0});
    cells.resume(0, load_shared(tiles.carried(tile)));
    cells.finish();
  }
}

// What travels is grad_gates of the step after, unit by unit, gate by gate. A tile's last turn is for h_0.
template <class A, bool kStacked, class CellKind>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_group_backward_kernel(LSTM_FUSED_PARAMS GroupBackwardArguments<CellKind, A, kStacked> arguments) {
  using Given = GroupBackwardArguments<CellKind, A, kStacked>;
  using Cells = typename CellKind::template Backward<A, 1, 1, false>;
  using V = GateFactors<Element<A>>;
  using Turn = Turns::Turn;
  using Sums = GroupSums<1, kStacked>;
  constexpr int kLines = kGroupLines<true>;
  using Stack = std::conditional_t<kStacked, StackedBackward<A, Given>, SingleLayer>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];

  const Sums sums{shared_memory()};  // and beside them, in a stack, those from the layer above
  const GroupTiles<typename Cells::Carried> tiles{shared_memory() +
                                                  (kStacked ? 2 : 1) * kNumSums<A, kStacked> * Sums::bytes()};
  Turns turns({s, p.reverse}, arguments.rows_per_group, 1, tiles.steps(arguments.tiles_per_group));
  const Exchange<V, Given> exchange(arguments);
  const int first_unit = exchange.first_unit();
  const auto is_last = [&](const Turn& turn) { return turn.step == turns.num_steps(turn.tile); };

  const GroupWeights<A, kLines, kStacked> weights(tiles.end(arguments.tiles_per_group), arguments.part_chunks,
                                                  ColumnSource<A>(p.w_hh, s.hidden_size, first_unit));
  Stack stack(arguments, turns, first_unit, weights.end());
  block_barrier();

  Cells cells(s, p, first_unit + cell_unit());
  for (int tile = own_half(); tile < turns.num_tiles; tile += num_halves<kStacked>()) {
    exchange.begin(tile, V{});
    store_shared(tiles.carried(tile), cells.first_carried(turns.row_of(tile) + cell_row()));
  }

  const auto prepare = [&](const Turn& turn, const Turn& own) {
    if (turn.tile != own.tile)
      cells.move_to(turns.row_of(turn.tile) + cell_row(), turns.num_steps(turn.tile), turn.step);
    else
      cells.advance_by(static_cast<int>(turn.step - own.step));
    cells.forget(0, 0);
    if (A::kTensorCore && !is_last(turn)) cells.load();  // as forward
    stack.prepare(turn);
  };
  typename GroupWeights<A, kLines, kStacked>::Looks looks;
  const auto part = weights.part(exchange.rows());
  const auto look = [&](const Turn& turn) { weights.look(part, exchange.place(turn), looks); };
  const auto multiply = [&](const Turn& turn, int place) {
    stack.multiply(turn);
    GroupProduct<A, kLines> product;
    weights.multiply(part, looks, product);
    looks = {};
    sums.at(place).put(product);
  };
  const auto compute = [&](const Turn& turn, int place) {
    if (!A::kTensorCore) cells.go_to(turns.num_steps(turn.tile), turn.step);  // no address lives through the product
    cells.resume(0, 0, load_shared(tiles.carried(turn.tile)));
    const float total = sums.at(place).total().of[0];
    if (is_last(turn)) return cells.finish(0, 0, total);
    if (!A::kTensorCore) cells.load();
    cells.step({{stack.with_above(turn, total)}});
    // A row that is not yet or no longer there: its gradient waits.
    exchange.send(turn, cells.is_active(0, 0) ? cells.factors(0, 0) : exchange.mine(turn));
    stack.send(turn, cells.factors_below(0, 0));
    store_shared(tiles.carried(turn.tile), cells.carried(0, 0));
  };
  const auto leave = [&](const Turn& turn) {
    if (is_last(turn)) return;
    if (!A::kTensorCore) cells.go_to(turns.num_steps(turn.tile), turn.step);
    cells.store_present();
  };
  take_turns<kNumSums<A, kStacked>, kStacked>(turns, exchange, prepare, look, multiply, compute, leave);
}

// ---- launchers

template <class A, bool kStacked, bool kBackward, class Layer>
int launch_group(void (*kernel)(const GroupArguments<Layer>), const Launch& launch, const LayerShape& shape,
                 const void* params, void* stream) {
  static_assert(sizeof(GroupArguments<Layer>) <= 4096);  // any device takes as many bytes of parameters
  constexpr GroupVariant kVariant{dtype_of<A>, A::kTensorCore, kStacked, kBackward};
  const int64_t rows = launch.rows_per_group, hidden = shape.hidden_size, warps = launch.threads_per_block / kWarp;
  const GroupArguments<Layer> arguments{make_arguments<Layer>(launch, shape, params), rows,
                                        static_cast<int>(group_blocks(hidden)), static_cast<int>(rows / kTileRows),
                                        static_cast<int>(group_part_chunks(dtype_of<A>, hidden, kBackward, warps))};
  Grid grid;
  grid.blocks = {arguments.num_blocks, static_cast<int>(ceil_div(shape.batch, launch.rows_per_group)),
                 static_cast<int>(launch.num_directions * launch.num_layers)};
  grid.threads = static_cast<int>(launch.threads_per_block);
  grid.shared_bytes = group_shared_bytes(kVariant, hidden, rows, warps);
  grid.together = true;
  return launch_kernel(kernel, grid, stream, arguments);
}

template <class CellKind, class A, bool kStacked>
int run_group_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  static_assert(sizeof(typename CellKind::template Forward<A, 1, true, Input::kLoaded>::Carried) == kGroupCarriedBytes);
  if constexpr (kNumSums<A, kStacked> > 1)
    if (takes_pairs(launch, shape))
      return launch_group<A, kStacked, false>(
          launch.training ? lstm_group_forward_pairs_kernel<A, true> : lstm_group_forward_pairs_kernel<A, false>,
          launch, shape, params, stream);
  return launch_group<A, kStacked, false>(launch.training ? lstm_group_forward_kernel<A, true, kStacked, CellKind>
                                                          : lstm_group_forward_kernel<A, false, kStacked, CellKind>,
                                          launch, shape, params, stream);
}

template <class CellKind, class A, bool kStacked>
int run_group_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return launch_group<A, kStacked, true>(lstm_group_backward_kernel<A, kStacked, CellKind>, launch, shape, params,
                                         stream);
}

template <DType kType>
int group_forward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    return launch.num_layers > 1 ? run_group_forward<PlainCells, A, true>(launch, shape, params, stream)
                                 : run_group_forward<PlainCells, A, false>(launch, shape, params, stream);
  });
}

template <DType kType>
int group_backward(const Launch& launch, const LayerShape& shape, const void* params, void* stream) {
  return with_arithmetic<kType>(launch, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    return launch.num_layers > 1 ? run_group_backward<PlainCells, A, true>(launch, shape, params, stream)
                                 : run_group_backward<PlainCells, A, false>(launch, shape, params, stream);
  });
}

}  // namespace lstm_fused
