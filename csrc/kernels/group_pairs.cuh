// The forward kernel of kind `group` where many tiles have as many steps: turns go in pairs, and while one half of the
// warps multiplies, the other has cells. docs/kernels.md has the essay.
#pragma once

#include <limits>

#include "kernels/group_stack.cuh"

namespace lstm_fused {

// Rows of all steps are counted in 31 bits here.
inline bool takes_pairs(const Launch& launch, const LayerShape& shape) {
  const GroupVariant variant{launch.dtype, has_tensor_cores(launch.dtype, false), launch.num_layers > 1, false};
  return shape.seq_len * shape.batch <= std::numeric_limits<int32_t>::max() && shape.segments.lengths == nullptr &&
         shape.segments.reset == nullptr &&
         group_takes_pairs(variant, shape.hidden_size, shape.batch, launch.rows_per_group,
                           launch.threads_per_block / kWarp);
}

// The cells of a thread: one unit of a row of each tile, one after the other. A step is in two parts, for the warp
// multiplies between them: open() makes gates of the sums, and close() c and h.
template <class A, bool kTraining>
class PairedCells {
 public:
  using T = Element<A>;
  using Math = typename MathOf<T>::type;

  LSTM_FUSED_DEVICE PairedCells(const LayerShape& s, const ForwardParams<T, float>& p, int64_t first_row, int unit)
      : reverse(p.reverse),
        keeps_cells(s.cells_time != 0),
        first_row(static_cast<int>(first_row) + cell_row()),
        num_rows(unit < s.hidden_size ? static_cast<int>(s.batch) : 0),
        num_steps(static_cast<uint32_t>(s.seq_len)),
        batch(static_cast<uint32_t>(s.batch)),
        cells_bytes(static_cast<uint32_t>(s.cells_stride * int64_t{sizeof(float)})),
        output_bytes(keep(static_cast<uint32_t>(s.output_stride * int64_t{sizeof(T)}))),
        gate_bytes(keep(static_cast<uint32_t>(s.hidden_size * int64_t{sizeof(T)}))),
        cells(p.cells + unit),
        output(keep(p.output + unit)),
        gates(keep(p.gates + unit - p.gates_time * s.batch * kNumGates * s.hidden_size)) {
    if (num_rows != 0) bias = bias_of(p.b_ih, p.b_hh, unit, s.hidden_size);
  }

  // Of a turn, among the rows of all steps, which are counted in 32 bits; -1 where the cell does not exist.
  LSTM_FUSED_DEVICE int row_of(const Turns::Turn& turn) const {
    const int row = first_row + turn.tile * static_cast<int>(kTileRows);
    const uint32_t time = reverse ? num_steps - 1 - turn.step : turn.step;
    const bool exists = (row < num_rows) & (turn.step < num_steps);  // no branch
    return keep(exists ? static_cast<int>(time * batch) + row : -1);
  }
  // Sends for x W_ih^T of that row.
  LSTM_FUSED_DEVICE void load(int row) {
    const T* const first = gates_at(row);
    const auto gate = [&](int n) { return load_global_if(row >= 0, bytes_behind(first, n, gate_bytes)); };
    input = {load_global_if(row >= 0, first), gate(1), gate(2), gate(3)};
  }
  LSTM_FUSED_DEVICE void open(const Gates<float>& recurrent) {
    // The bias last: it may be large, and no term should be rounded to its size.
    activated = activate<Math>(add(add(widen(input), recurrent), bias));
    added = activated.i * activated.g;  // apart, so that nvcc rounds this product alone, as in the other kernels
  }
  // As ForwardCells has it.
  struct alignas(8) Carried {
    float c;
    T h;
  };
  LSTM_FUSED_DEVICE Carried close(float c) const {
    const float next = next_cell(activated.f, c, added);
    return {next, round_to<T>(next_hidden<Math>(activated, next))};
  }
  LSTM_FUSED_DEVICE void store(int row, const Carried& cell) const {
    store_global_if(row >= 0, bytes_behind(output, row, output_bytes), cell.h);
    store_global_if(row >= 0 && keeps_cells, bytes_behind(cells, row, cells_bytes), cell.c);
    if constexpr (kTraining) store_gates_if(row >= 0, gates_at(row), gate_bytes / sizeof(T), round_gates<T>(activated));
  }

 private:
  LSTM_FUSED_DEVICE T* gates_at(int row) const { return bytes_behind(gates, row, kNumGates * gate_bytes); }

  const bool reverse, keeps_cells;
  const int first_row, num_rows;  // of the batch; none where there is no such unit
  const uint32_t num_steps, batch;
  const uint32_t cells_bytes, output_bytes, gate_bytes;  // of a row; gates have four times as many
  float* const cells;
  T *const output, *const gates;  // at row 0, the one of step 0
  Gates<float> bias = {}, activated;
  Gates<T> input;
  float added;
};

// The grid, and who has which cells, are those of lstm_group_forward_kernel: half 0 has those of the first turn of a
// pair, half 1 those of the second. Both multiply in each turn, half 0 first:
//   half 0    first turn | close, load | second turn | open        | first turn ...
//   half 1               | first turn  | close, load | second turn | open ...
// So each has its cells while the other one multiplies.
template <class A, bool kTraining>
LSTM_FUSED_KERNEL(kThreads, 1)
lstm_group_forward_pairs_kernel(LSTM_FUSED_PARAMS GroupForwardArguments<PlainCells, A, false> arguments) {
  using T = Element<A>;
  using Turn = Turns::Turn;
  using Sums = GroupSums<kNumGates, false>;
  using Weights = GroupWeights<A, kGroupLines<false>, false>;
  using Cells = PairedCells<A, kTraining>;
  const LayerShape& s = arguments.layer.shape;
  const auto& p = arguments.layer.direction[block_index().z];

  const Sums sums{shared_memory()};
  const GroupTiles<typename Cells::Carried> tiles{shared_memory() + kNumSums<A, false> * Sums::bytes()};
  const Exchange<T, GroupForwardArguments<PlainCells, A, false>> exchange(arguments);
  const int half = own_half(), first_unit = exchange.first_unit();
  const int64_t first_row = block_index().y * arguments.rows_per_group, left = s.batch - first_row;
  const int num_rows = static_cast<int>(left < arguments.rows_per_group ? left : arguments.rows_per_group);
  const int num_tiles = (num_rows + static_cast<int>(kTileRows) - 1) / static_cast<int>(kTileRows);
  const uint32_t num_steps = static_cast<uint32_t>(s.seq_len);

  const Weights weights(tiles.end(arguments.tiles_per_group), arguments.part_chunks,
                        RowSource<A>(p.w_hh, s.hidden_size, first_unit));
  const auto for_own_tiles = [&](auto&& f) {
    PlainCells::Forward<A, 1, kTraining, Input::kLoaded> ends(s, p, first_unit + cell_unit());
    for (int tile = half; tile < num_tiles; tile += 2) {
      ends.move_to(first_row + tile * kTileRows + cell_row(), num_steps, 0);
      f(tile, ends);
    }
  };
  for_own_tiles([&](int tile, auto& ends) {
    ends.begin();
    exchange.begin(tile, ends.factor(0));
    store_shared(tiles.carried(tile), {ends.carried(0).c, ends.carried(0).h});
  });

  // Barriers of half 0 and 1: to multiply next, and to read what the other half has put into their sums.
  const int own_turn = 1 + half, other_turn = 2 - half, own_sums = 3 + half, other_sums = 4 - half;
  const auto next_of = [&](const Turn& turn) {
    const bool wraps = turn.tile + 1 == num_tiles;
    return Turn{wraps ? 0 : turn.tile + 1, turn.step + wraps};
  };
  const uint32_t slot_bytes = keep(exchange.slot_bytes());
  T* const cell_words = keep(exchange.cell_words());
  const auto part = weights.part(exchange.rows());
  const auto rows_of = [&](const Turn& turn) {
    return keep(bytes_behind(part.first, exchange.slot(turn), slot_bytes));
  };
  const auto words_of = [&](int tile, uint32_t step) {
    return bytes_behind(cell_words, exchange.slot({tile, step}), slot_bytes);
  };

  Cells cells(s, p, first_row, first_unit + cell_unit());
  struct Own {  // a turn of the half's cells
    Turn turn;
    int row;
  };
  const auto own_of = [&](const Turn& first, const Turn& second) {
    const Turn turn{half == 0 ? first.tile : second.tile, half == 0 ? first.step : second.step};
    return Own{turn, cells.row_of(turn)};
  };
  const auto open = [&] {
    named_barrier(own_sums, kThreads);
    const auto total = sums.at(half).total_of_all();
    cells.open({total.of[0], total.of[1], total.of[2], total.of[3]});
  };
  constexpr uint32_t kNone = ~0u;
  uint32_t ordered = kOrderedSteps;
  // And sends for what the next ones need, before the stores that others wait for.
  const auto close = [&](const Own& own, int next_row) {
    if (own.turn.step >= ordered) {
      if (own.turn.step == kNone) return cells.load(next_row);
      fence_gpu();
      ordered = own.turn.step + kOrderedSteps;
    }
    const auto before = load_shared(tiles.carried(own.turn.tile));
    T* const sent = words_of(own.turn.tile, own.turn.step + 1);
    T* const cleared = words_of(own.turn.tile, own.turn.step - 1);
    cells.load(next_row);
    const auto after = cells.close(before.c);
    cells.store(own.row, after);
    store_shared(tiles.carried(own.turn.tile), after);
    send_to(sent, as_factor<A>(after.h));
    clear(cleared);
  };

  Turn turn{0, 0}, next = next_of(turn);
  Own own{{0, kNone}, -1}, coming = own_of(turn, next);
  const char *rows = rows_of(turn), *next_rows = rows_of(next);
  typename Weights::AllLooks looks;
  weights.look(part, rows, looks);
  if (half == 1) named_arrive(other_turn, kThreads);
  const auto await_turn = [&] { named_barrier(own_turn, kThreads); };
  uint32_t count = 0;  // of turns
  do {
    const int of_pair = static_cast<int>(count % 2);
    await_turn();
    const Turn behind = next_of(next);
    const char* const rows_behind = rows_of(behind);
    GroupProduct<A, kGroupLines<false>> product;
    weights.multiply(part, next_rows, looks, product, [&] { named_arrive(other_turn, kThreads); });
    sums.at(of_pair).put(product);
    if (any_lane(Weights::may_lack_words(product))) {
      product = {};
      weights.look_until_whole(part, rows, looks);
      weights.multiply(part, next_rows, looks, product, [] {});
      sums.at(of_pair).put(product);
    }
    if (of_pair != half) named_arrive(other_sums, kThreads);
    if (of_pair == 0) {
      close(own, coming.row);
      own = coming;
    } else {
      open();
      coming = own_of(next, behind);
    }
    ++count;
    turn = next;
    next = behind;
    rows = next_rows;
    next_rows = rows_behind;
  } while (turn.step < num_steps);
  if (half == 0) {
    await_turn();
    if (count % 2 == 1) open();
  }
  if (own.turn.step < num_steps) close(own, -1);

  block_barrier();  // another thread may have had a cell's last turn
  for_own_tiles([&](int tile, auto& ends) {
    const auto last = load_shared(tiles.carried(tile));
    ends.resume(0, {last.c, last.h});
    ends.finish();
  });
}

}  // namespace lstm_fused
