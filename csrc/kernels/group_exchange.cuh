// What the two kernels of kind `group` share: whose turn it is, what the blocks of a group send each other through
// global memory, and a block's part of W_hh. docs/kernels.md has the essay.
#pragma once

#include "kernels/arguments.h"
#include "kernels/backward_cells.cuh"
#include "kernels/cluster_primitives.cuh"
#include "kernels/row_tiles.cuh"

namespace lstm_fused {

// A layer's Forward- or BackwardArguments, and how the grid covers it.
template <class Layer>
struct GroupArguments {
  Layer layer;
  int64_t rows_per_group;
  int num_blocks;       // of a group
  int tiles_per_group;  // of rows: a tile is what a turn takes
  int num_tiles;        // of all groups
  int part_chunks;      // of K for each warp
};

template <bool kBackward>
constexpr int kGroupLines = static_cast<int>(group_lines(kBackward));
template <class A, bool kStacked, bool kBackward>  // chunks of a warp's weights
constexpr int kInRegisters = static_cast<int>(group_chunks_held({dtype_of<A>, A::kTensorCore, kStacked, kBackward}));

template <class A, bool kStacked>
constexpr int kTurnRows = static_cast<int>(group_turn_rows(dtype_of<A>, kStacked));
// The first threads of a block have a cell each, as many as there are in a turn; one of the last waits for others.
LSTM_FUSED_DEVICE bool waits_for_others() { return thread_index() == kThreads - 1; }
LSTM_FUSED_DEVICE int cell_unit() { return thread_index() % static_cast<int>(kGroupUnits); }
LSTM_FUSED_DEVICE int cell_row() { return thread_index() / static_cast<int>(kGroupUnits); }
static_assert(kGroupUnits * group_turn_rows(DType::kFloat16, false) <= kThreads);

// The turns of a group: step 0 of each of its tiles of rows, step 1 of each, and so on. Tiles with fewer steps drop
// out.
class Turns {
 public:
  struct Turn {
    int tile;
    uint32_t step;
  };
  const int64_t first_row;
  int num_tiles;

  // `rows_per_tile`: 8, or twice as many. `more`: turns that every tile has beyond its steps. `memory`: kGroupMostTiles
  // ints. A barrier must follow.
  LSTM_FUSED_DEVICE Turns(const Clock& clock, int64_t rows_per_group, int rows_per_tile, uint32_t more, char* memory)
      : first_row(block_index().y * rows_per_group),
        rows_per_tile(rows_per_tile),
        more(more),
        steps(reinterpret_cast<uint32_t*>(memory)) {
    const int64_t left = clock.shape.batch - first_row;
    num_rows = static_cast<int>(left < rows_per_group ? left : rows_per_group);
    num_tiles = (num_rows + rows_per_tile - 1) / rows_per_tile;
    for (int tile = thread_index(); tile < num_tiles; tile += num_threads()) {
      store_shared(steps + tile, static_cast<uint32_t>(longest(clock, row_of(tile), rows_of(tile))));
    }
  }

  LSTM_FUSED_DEVICE int64_t row_of(int tile) const { return first_row + tile * rows_per_tile; }
  LSTM_FUSED_DEVICE int rows_of(int tile) const {
    const int left = num_rows - tile * rows_per_tile;
    return left < rows_per_tile ? left : rows_per_tile;
  }
  // Whether it has more than 8 rows.
  LSTM_FUSED_DEVICE bool is_wide(int tile) const { return rows_of(tile) > static_cast<int>(kTileRows); }
  // Whether the calling thread has one of its cells.
  LSTM_FUSED_DEVICE bool has_cell(int tile) const {
    return thread_index() < (is_wide(tile) ? 2 : 1) * static_cast<int>(kTileRows * kGroupUnits);
  }
  LSTM_FUSED_DEVICE uint32_t num_steps(int tile) const { return load_shared(steps + tile); }
  LSTM_FUSED_DEVICE Turn first() {
    for (int tile = 0; tile < num_tiles; ++tile) most = num_steps(tile) + more > most ? num_steps(tile) + more : most;
    return next({-1, 0});
  }
  LSTM_FUSED_DEVICE Turn next(Turn turn) const {
    do {
      if (++turn.tile == num_tiles) {
        turn.tile = 0;
        ++turn.step;
      }
    } while (exists(turn) && turn.step >= num_steps(turn.tile) + more);
    return turn;
  }
  LSTM_FUSED_DEVICE bool exists(const Turn& turn) const { return turn.step < most; }

 private:
  const int rows_per_tile;
  int num_rows;
  const uint32_t more;
  uint32_t* const steps;
  uint32_t most = 0;
};

// Rows of a tile in global memory, one behind the other; those from `count` on are zero.
struct GroupRows {
  const char* first;
  int bytes;  // of each
  int count;

  // The 16 bytes of row n at byte `at`.
  LSTM_FUSED_DEVICE bool has(int n, int at) const { return at < bytes && n < count; }
  LSTM_FUSED_DEVICE Vector16 load(int n, int at) const {
    return load_global(reinterpret_cast<const Vector16*>(first + n * bytes + at));
  }
  // What has been loaded, as the product wants it.
  LSTM_FUSED_DEVICE Vector16 factors(const Vector16& loaded) const { return loaded; }
};

// Whether as many have arrived at a tile of a group.
LSTM_FUSED_DEVICE bool have_arrived(const uint32_t* arrivals, int tile, uint32_t all) {
  const uint32_t arrived = load_acquire(arrivals + tile * kGroupArrivalWords);
  return static_cast<int32_t>(arrived - all) >= 0;  // the count may wrap around
}

// What the blocks of a group have from each other: a V of each cell, of all units of a tile of rows. At step n of a
// tile they read what was sent at step n - 1 (before the first, by begin), and send into the other of two buffers. Who
// sends has waited for all to arrive at the step, so all have read the buffer that is now written.
template <class V, int kRows, class Arguments>
class Exchange {
 public:
  LSTM_FUSED_DEVICE explicit Exchange(const Arguments& arguments)
      : arguments(arguments),
        num_blocks(arguments.num_blocks),
        row_bytes(num_blocks * static_cast<int>(kGroupUnits * sizeof(V))),
        buffers(own().exchange + first_tile() * 2 * kRows * row_bytes) {}

  LSTM_FUSED_DEVICE int first_unit() const { return block_index().x * static_cast<int>(kGroupUnits); }
  // What this turn multiplies.
  LSTM_FUSED_DEVICE GroupRows rows(const Turns::Turn& turn) const {
    return {buffer(turn.tile, turn.step), row_bytes, kRows};
  }

  // Of the calling thread's cell: what this turn reads, and what the tile's next one will.
  LSTM_FUSED_DEVICE V mine(const Turns::Turn& turn) const { return load_global(cell(turn.tile, turn.step)); }
  LSTM_FUSED_DEVICE void send(const Turns::Turn& turn, V value) const {
    store_global(cell(turn.tile, turn.step + 1), value);
  }
  LSTM_FUSED_DEVICE void begin(int tile, V value) const { store_global(cell(tile, 0), value); }

  // By one thread, behind a barrier of the block: its turn with this tile is over, or its begin().
  LSTM_FUSED_DEVICE void arrive(int tile) const { atomic_add_release(arrivals() + tile * kGroupArrivalWords, 1); }
  // By one thread, before a barrier of the block: until all have arrived at this turn.
  LSTM_FUSED_DEVICE void wait(const Turns::Turn& turn) const {
    spin_wait([&] { return have_arrived(arrivals(), turn.tile, (turn.step + 1) * num_blocks); });
  }

  // Where the calling thread keeps something of its cell while the group takes other tiles.
  template <class K>
  LSTM_FUSED_DEVICE K* keep(int tile) const {
    static_assert(sizeof(K) <= kGroupCarriedBytes);
    char* const kept = own().exchange + int64_t{arguments.num_tiles} * 2 * kRows * row_bytes;
    const int64_t block = (first_tile() + tile) * num_blocks + block_index().x;
    return reinterpret_cast<K*>(kept + (block * kGroupUnits * kRows + thread_index()) * kGroupCarriedBytes);
  }

 private:
  LSTM_FUSED_DEVICE const auto& own() const { return arguments.layer.direction[block_index().z]; }
  LSTM_FUSED_DEVICE int64_t first_tile() const { return int64_t{block_index().y} * arguments.tiles_per_group; }
  LSTM_FUSED_DEVICE uint32_t* arrivals() const { return own().arrivals + first_tile() * kGroupArrivalWords; }
  LSTM_FUSED_DEVICE char* buffer(int tile, uint32_t step) const {
    return buffers + int64_t{2 * tile + static_cast<int>(step & 1)} * kRows * row_bytes;
  }
  LSTM_FUSED_DEVICE V* cell(int tile, uint32_t step) const {
    return reinterpret_cast<V*>(buffer(tile, step) + cell_row() * row_bytes) + first_unit() + cell_unit();
  }
  const Arguments& arguments;
  const int num_blocks, row_bytes;
  char* const buffers;
};

// Takes all turns of a kernel:
//   prepare(turn)   sends for what the cells need, by the threads that have one
//   begin(turn)     multiplies what needs the layer ahead alone
//   multiply(turn)  the block's product, its sums into shared memory
//   cells(turn)     of those sums, and sends what others wait for
//   leave(turn)     stores what nobody waits for
// Where the next turn is another tile's, the wait for it is over before this one's arrival is on its way: what that
// tile's blocks did lies a round of turns back. So is the wait for the layer ahead, which waits for nobody here.
template <class Exchange, class Stack, class Prepare, class Begin, class Multiply, class Cells, class Leave>
LSTM_FUSED_DEVICE void take_turns(Turns& turns, const Exchange& exchange, const Stack& stack, Prepare&& prepare,
                                  Begin&& begin, Multiply&& multiply, Cells&& cells, Leave&& leave) {
  Turns::Turn turn = turns.first();
  block_barrier();
  if (thread_index() == 0)
    for (int tile = 0; tile < turns.num_tiles; ++tile) exchange.arrive(tile);
  if (!turns.exists(turn)) return;
  if (turns.has_cell(turn.tile)) prepare(turn);
  if (waits_for_others()) {
    stack.wait(turn);
    exchange.wait(turn);
  }
  block_barrier();
  begin(turn);
  while (true) {
    multiply(turn);
    const Turns::Turn next = turns.next(turn);
    const bool goes_on = turns.exists(next), waits_early = goes_on && next.tile != turn.tile;
    block_barrier();
    if (turns.has_cell(turn.tile)) cells(turn);
    if (goes_on && waits_for_others()) stack.wait(next);
    if (waits_early && waits_for_others()) exchange.wait(next);
    block_barrier();
    if (thread_index() == 0) exchange.arrive(turn.tile);
    if (turns.has_cell(turn.tile)) leave(turn);
    if (!goes_on) return;
    if (turns.has_cell(next.tile)) prepare(next);
    begin(next);
    turn = next;
    if (!waits_early) {
      if (waits_for_others()) exchange.wait(turn);
      block_barrier();
    }
  }
}

}  // namespace lstm_fused
