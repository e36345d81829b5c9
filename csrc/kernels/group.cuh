// The persistent kernels of kind `group`: blocks all over the GPU hold W_hh in registers and shared memory between
// them, and send each other h, or grad_gates, through global memory once per step. docs/kernels.md has the essay.
#pragma once

#include "kernels/backward_cells.cuh"
#include "kernels/forward_cells.cuh"
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
  using Turn = Turns::Turn;
  using Sums = GroupSums<kNumGates, kTurnRows<A, kStacked>>;
  constexpr int kLines = kGroupLines<false>;
  using Stack = std::conditional_t<kStacked, StackedForward<A, GroupForwardArguments<A, kStacked>>, SingleLayer>;
  using Cells = ForwardCells<A, 1, kTraining, Input::kLoaded>;
  using Carried = typename Cells::Carried;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];

  const Sums sums{shared_memory()};
  char* const memory = shared_memory() + Sums::kBytes;
  Turns turns({s, p.reverse}, arguments.rows_per_group, kTurnRows<A, kStacked>, 0, memory);
  const bool many = turns.num_tiles > 1;
  const Exchange<T, kTurnRows<A, kStacked>, GroupForwardArguments<A, kStacked>> exchange(arguments);
  const int first_unit = exchange.first_unit();

  const GroupWeights<A, kLines, kStacked> weights(memory + kGroupMostTiles * sizeof(int), arguments.part_chunks,
                                                  RowSource<A>(p.w_hh, s.hidden_size, first_unit));
  Stack stack(arguments, turns, first_unit, weights.end());
  block_barrier();

  Cells cells(s, p, first_unit + cell_unit());
  const auto move_to = [&](const Turn& turn) {
    cells.move_to(turns.row_of(turn.tile) + cell_row(), turns.num_steps(turn.tile), turn.step);
  };
  const auto keep = [&](int tile) {
    if (many) store_global(exchange.template keep<Carried>(tile), cells.carried(0));
  };
  for (int tile = 0; tile < turns.num_tiles; ++tile) {
    if (!turns.has_cell(tile)) continue;
    move_to({tile, 0});
    cells.begin(stack.is_first());
    exchange.begin(tile, cells.factor(0));
    keep(tile);
    if (turns.num_steps(tile) == 0) cells.finish();
  }

  const auto prepare = [&](const Turn& turn) {
    if (many) {
      move_to(turn);
      cells.resume(0, load_global(exchange.template keep<Carried>(turn.tile)));
    }
    // Without tensor cores products take all registers, and long enough to look things up behind them.
    if (A::kTensorCore) cells.load(stack.is_first());
    stack.prepare(turn);
  };
  typename GroupWeights<A, kLines, kStacked>::Looks looks;
  const auto look = [&](const Turn& turn) { weights.look(exchange.rows(turn), looks); };
  const auto multiply = [&](const Turn& turn) {
    GroupRows rows = exchange.rows(turn);
#pragma unroll 1
    for (int tile = 0; tile < turns.num_eights(turn.tile); ++tile) {
      if (tile > 0) weights.look(rows = rows.from(static_cast<int>(kTileRows)), looks);
      GroupProduct<A, kLines> product;
      stack.multiply(turn, product);
      weights.multiply(rows, looks, product);
      sums.put(product, tile);
    }
  };
  const auto is_last = [&](const Turn& turn) { return turn.step + 1 == turns.num_steps(turn.tile); };
  const auto compute = [&](const Turn& turn) {
    if (!A::kTensorCore) {
      cells.go_to(turns.num_steps(turn.tile), turn.step);
      cells.load(stack.is_first());
    }
    const auto total = sums.total();
    cells.step({{total.of[0], total.of[1], total.of[2], total.of[3]}});
    exchange.send(turn, cells.factor(0), !is_last(turn));
    stack.send(turn, cells.hidden(0));
  };
  const auto leave = [&](const Turn& turn) {
    cells.go_to(turns.num_steps(turn.tile), turn.step + 1);
    cells.store();
    if (is_last(turn)) return cells.finish();
    keep(turn.tile);
  };
  take_turns(turns, exchange, prepare, look, multiply, compute, leave);
}

// What travels is grad_gates of the step after, unit by unit, gate by gate. A tile's last turn is for h_0.
template <class A, bool kStacked>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_group_backward_kernel(LSTM_FUSED_PARAMS GroupBackwardArguments<A, kStacked> arguments) {
  using V = GateFactors<Element<A>>;
  using Turn = Turns::Turn;
  using Sums = GroupSums<1, kTurnRows<A, kStacked>>;
  constexpr int kLines = kGroupLines<true>;
  using Stack = std::conditional_t<kStacked, StackedBackward<A, GroupBackwardArguments<A, kStacked>>, SingleLayer>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];

  const Sums sums{shared_memory()};  // and beside them, in a stack, those from the layer above
  char* const memory = shared_memory() + (kStacked ? 2 : 1) * Sums::kBytes;
  Turns turns({s, p.reverse}, arguments.rows_per_group, kTurnRows<A, kStacked>, 1, memory);
  const bool many = turns.num_tiles > 1;
  const Exchange<V, kTurnRows<A, kStacked>, GroupBackwardArguments<A, kStacked>> exchange(arguments);
  const int first_unit = exchange.first_unit();
  const auto is_last = [&](const Turn& turn) { return turn.step == turns.num_steps(turn.tile); };

  const GroupWeights<A, kLines, kStacked> weights(memory + kGroupMostTiles * sizeof(int), arguments.part_chunks,
                                                  ColumnSource<A>(p.w_hh, s.hidden_size, first_unit));
  Stack stack(arguments, turns, first_unit, weights.end());
  block_barrier();

  BackwardCells<A, 1, 1, false> cells(s, p, first_unit + cell_unit());
  const auto move_to = [&](const Turn& turn) {
    cells.move_to(turns.row_of(turn.tile) + cell_row(), turns.num_steps(turn.tile), turn.step);
  };
  for (int tile = 0; tile < turns.num_tiles; ++tile) {
    if (!turns.has_cell(tile)) continue;
    exchange.begin(tile, V{});
    if (many) store_global(exchange.template keep<float>(tile), 0.0f);
  }
  if (!many) move_to({0, 0});

  const auto prepare = [&](const Turn& turn) {
    if (many) {
      move_to(turn);
      cells.resume(0, 0, load_global(exchange.template keep<float>(turn.tile)));
    }
    if (A::kTensorCore && !is_last(turn)) cells.load();  // as forward
    stack.prepare(turn);
  };
  typename GroupWeights<A, kLines, kStacked>::Looks looks;
  const auto look = [&](const Turn& turn) { weights.look(exchange.rows(turn), looks); };
  const auto multiply = [&](const Turn& turn) {
    stack.multiply(turn);
    GroupRows rows = exchange.rows(turn);
#pragma unroll 1
    for (int tile = 0; tile < turns.num_eights(turn.tile); ++tile) {
      if (tile > 0) weights.look(rows = rows.from(static_cast<int>(kTileRows)), looks);
      GroupProduct<A, kLines> product;
      weights.multiply(rows, looks, product);
      sums.put(product, tile);
    }
  };
  const auto compute = [&](const Turn& turn) {
    if (!A::kTensorCore) cells.go_to(turns.num_steps(turn.tile), turn.step);  // no address lives through the product
    if (is_last(turn)) return cells.finish(0, 0, sums.total().of[0]);
    if (!A::kTensorCore) cells.load();
    const float total = sums.total().of[0];
    cells.step({{stack.with_above(turn, total)}});
    // A row that is not yet or no longer there: its gradient waits.
    exchange.send(turn, cells.is_active(0, 0) ? cells.factors(0, 0) : exchange.mine(turn), true);
    stack.send(turn, cells.factors_below(0, 0));
  };
  const auto leave = [&](const Turn& turn) {
    if (is_last(turn)) return;
    cells.go_to(turns.num_steps(turn.tile), turn.step + 1);
    cells.store();
    if (many) store_global(exchange.template keep<float>(turn.tile), cells.carried(0, 0));
  };
  take_turns(turns, exchange, prepare, look, multiply, compute, leave);
}

// ---- launchers

template <class A, bool kStacked, bool kBackward, class Layer>
int launch_group(void (*kernel)(const GroupArguments<Layer>), const Launch& launch, const LayerShape& shape,
                 const void* params, void* stream) {
  static_assert(sizeof(GroupArguments<Layer>) <= 4096);  // any device takes as many bytes of parameters
  constexpr GroupVariant kVariant{dtype_of<A>, A::kTensorCore, kStacked, kBackward};
  const int64_t rows = launch.rows_per_group;
  const GroupArguments<Layer> arguments{make_arguments<Layer>(launch, shape, params),
                                        rows,
                                        static_cast<int>(group_blocks(shape.hidden_size)),
                                        static_cast<int>(ceil_div(rows, kTurnRows<A, kStacked>)),
                                        static_cast<int>(group_turns(rows, shape.batch, kTurnRows<A, kStacked>)),
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
  static_assert(sizeof(typename ForwardCells<A, 1, true, Input::kLoaded>::Carried) == kGroupCarriedBytes);
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
