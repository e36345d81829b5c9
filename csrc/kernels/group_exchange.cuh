// What the two kernels of kind `group` share: whose turn it is, what the blocks of a group send each other through
// global memory, and a block's part of W_hh. docs/kernels.md has the essay.
#pragma once

#include <type_traits>
#include <utility>

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
// The first threads of a block, whole warps, have a cell each, as many as there are in a turn.
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
  // Its tiles of 8 rows, of which products are formed one by one.
  LSTM_FUSED_DEVICE int num_eights(int tile) const { return rows_of(tile) > static_cast<int>(kTileRows) ? 2 : 1; }
  // Whether the calling thread has one of its cells.
  LSTM_FUSED_DEVICE bool has_cell(int tile) const {
    return thread_index() < num_eights(tile) * static_cast<int>(kTileRows * kGroupUnits);
  }
  LSTM_FUSED_DEVICE uint32_t num_steps(int tile) const { return load_shared(steps + tile); }
  LSTM_FUSED_DEVICE Turn first() {
    for (int tile = 0; tile < num_tiles; ++tile) most = num_steps(tile) + more > most ? num_steps(tile) + more : most;
    return next({-1, 0});
  }
  LSTM_FUSED_DEVICE Turn next(Turn turn) const {
    if (num_tiles == 1 && turn.tile == 0) {  // one addition, where every cycle counts
      ++turn.step;
      return turn;
    }
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

// ---- words that say themselves whether they are there. kGroupMissing stands in memory until a word is sent, and no
// word that is sent is that. They are of 32 bits, for each of those arrives whole; of 16 bits two cells share one.

template <class V>
using WordsOf = Words<sizeof(V) < sizeof(uint32_t) ? 1 : static_cast<int>(sizeof(V) / sizeof(uint32_t))>;
template <class V>
constexpr bool kSharesWord = sizeof(V) < sizeof(uint32_t);

// To a place of the calling lane's own, beside those of its neighbours, by whole warps; `exists`: of the two lanes that
// share a word alike.
template <class V>
LSTM_FUSED_DEVICE void send_to(V* place, const V& value, bool exists = true) {
  WordsOf<V> words = {};
  std::memcpy(&words, &value, sizeof(value));
  if constexpr (kSharesWord<V>) words.word[0] |= shuffle_xor(words.word[0], 1) << 16;
  // All bits set are NaN, and any other NaN does as well.
#pragma unroll
  for (uint32_t& word : words.word) word = word < kGroupMissing ? word : kGroupMissing - 1;
  store_relaxed_if(exists && !(kSharesWord<V> && lane_index() % 2 == 1), reinterpret_cast<WordsOf<V>*>(place), words);
}
template <class V>
LSTM_FUSED_DEVICE void clear(V* place) {
  WordsOf<V> words;
#pragma unroll
  for (uint32_t& word : words.word) word = kGroupMissing;
  store_relaxed_if(!(kSharesWord<V> && lane_index() % 2 == 1), reinterpret_cast<WordsOf<V>*>(place), words);
}

// Rows of a tile in global memory, one behind the other; those from `count` on are zero.
struct GroupRows {
  const char* first;
  int bytes;  // of each
  int count;
  LSTM_FUSED_DEVICE GroupRows from(int row) const { return {first + row * bytes, bytes, count - row}; }
};

LSTM_FUSED_DEVICE bool is_whole(const Vector16& v) {
  uint32_t most = 0;
#pragma unroll
  for (const uint32_t word : v.word) most = word > most ? word : most;
  return most != kGroupMissing;
}
template <int n>
struct Number {
  static constexpr int value = n;
};
template <int... n, class F>
LSTM_FUSED_DEVICE void unrolled_over(std::integer_sequence<int, n...>, F&& f) {
  (f(Number<n>()), ...);
}
// Calls f with the numbers from 0 to kCount as types, so that what they choose is chosen by constants.
template <int kCount, class F>
LSTM_FUSED_DEVICE void unrolled(F&& f) {
  unrolled_over(std::make_integer_sequence<int, kCount>(), f);
}

// By a warp: until what its lanes have loaded is whole. load(i) loads vector i again.
template <int kCount, class Load>
LSTM_FUSED_DEVICE void await(Vector16* vectors, Load&& load) {
  const auto are_whole = [&] {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) all &= is_whole(vectors[i]);
    return !any_lane(!all);
  };
  if (are_whole()) return;
  spin_wait([&] {
    unrolled<kCount>([&](auto i) {
      if (!is_whole(vectors[i.value])) vectors[i.value] = load(i);
    });
    return are_whole();
  });
}

// What the blocks of a group have from each other: a V of each cell, of all units of a tile of rows. At step n of a
// tile they read what was sent at step n - 1 (before the first, by begin), and send into the next of kGroupSlots
// slots. Who sends has read what all sent at the step before, and they had read then what lies one slot further back:
// the sender's part of that is cleared. Whoever reads there again has seen it cleared, by the fences of take_turns.
template <class V, int kRows, class Arguments>
class Exchange {
 public:
  LSTM_FUSED_DEVICE explicit Exchange(const Arguments& arguments)
      : arguments(arguments),
        row_bytes(arguments.num_blocks * static_cast<uint32_t>(kGroupUnits * sizeof(V))),
        buffers(own().exchange + first_tile() * kSlots * kRows * row_bytes) {}

  LSTM_FUSED_DEVICE int first_unit() const { return block_index().x * static_cast<int>(kGroupUnits); }
  // What this turn multiplies.
  LSTM_FUSED_DEVICE GroupRows rows(const Turns::Turn& turn) const {
    return {buffers + row(turn.tile, turn.step) * row_bytes, static_cast<int>(row_bytes), kRows};
  }

  // Of the calling thread's cell: what this turn reads, and what the tile's next one will.
  LSTM_FUSED_DEVICE V mine(const Turns::Turn& turn) const {
    V value;
    const WordsOf<V> words = load_relaxed(reinterpret_cast<const WordsOf<V>*>(cell(turn.tile, turn.step)));
    std::memcpy(&value, &words, sizeof(value));
    return value;
  }
  LSTM_FUSED_DEVICE void send(const Turns::Turn& turn, const V& value, bool wanted) const {
    send_to(cell(turn.tile, turn.step + 1), value, wanted);
  }
  // Behind a barrier that is behind this turn's products: what the step before it read is missing again.
  LSTM_FUSED_DEVICE void clear_last(const Turns::Turn& turn) const { clear(cell(turn.tile, turn.step - 1)); }
  LSTM_FUSED_DEVICE void begin(int tile, const V& value) const { send_to(cell(tile, 0), value); }
  // Where the calling thread keeps something of its cell while the group takes other tiles.
  template <class K>
  LSTM_FUSED_DEVICE K* keep(int tile) const {
    static_assert(sizeof(K) <= kGroupCarriedBytes);
    char* const kept = own().exchange + int64_t{arguments.num_tiles} * kSlots * kRows * row_bytes;
    const int64_t block = (first_tile() + tile) * arguments.num_blocks + block_index().x;
    return reinterpret_cast<K*>(kept + (block * kGroupUnits * kRows + thread_index()) * kGroupCarriedBytes);
  }

 private:
  static constexpr uint32_t kSlots = static_cast<uint32_t>(kGroupSlots);
  LSTM_FUSED_DEVICE const auto& own() const { return arguments.layer.direction[block_index().z]; }
  LSTM_FUSED_DEVICE int64_t first_tile() const { return int64_t{block_index().y} * arguments.tiles_per_group; }
  // 32 bits are enough for the buffers of a group.
  LSTM_FUSED_DEVICE uint32_t row(int tile, uint32_t step) const { return (tile * kSlots + step % kSlots) * kRows; }
  LSTM_FUSED_DEVICE V* cell(int tile, uint32_t step) const {
    const uint32_t in_row = (first_unit() + cell_unit()) * static_cast<uint32_t>(sizeof(V));
    return reinterpret_cast<V*>(buffers + ((row(tile, step) + cell_row()) * row_bytes + in_row));
  }
  const Arguments& arguments;
  const uint32_t row_bytes;
  char* const buffers;
};

// Takes all turns of a kernel:
//   prepare(turn)   sends for what the cells need, by the threads that have one
//   look(turn)      looks at what others may have sent
//   multiply(turn)  the block's products, once it is all there; their sums into shared memory
//   cells(turn)     of those sums, and sends what others wait for
//   leave(turn)     stores what nobody waits for
template <class Exchange, class Prepare, class Look, class Multiply, class Cells, class Leave>
LSTM_FUSED_DEVICE void take_turns(Turns& turns, const Exchange& exchange, Prepare&& prepare, Look&& look,
                                  Multiply&& multiply, Cells&& cells, Leave&& leave) {
  Turns::Turn turn = turns.first();
  if (!turns.exists(turn)) return;
  look(turn);
  if (turns.has_cell(turn.tile)) prepare(turn);
  // Of the steps from one that clears to the one that reads there again, so many may pass before the clearing thread
  // comes to a fence, so many before the reader has one behind what was sent after that, and the reader looks a step
  // ahead. Both fences are of the threads that clear, send and read.
  constexpr uint32_t kOrderedSteps = static_cast<uint32_t>(kGroupSlots) / 4;
  static_assert(2 * kOrderedSteps + 2 <= kGroupSlots);
  while (true) {
    multiply(turn);
    block_barrier();
    const Turns::Turn next = turns.next(turn);
    const bool goes_on = turns.exists(next);
    if (turns.has_cell(turn.tile)) cells(turn);
    block_barrier();  // the sums have been read; nor is it worth a look before this block has sent
    if (turns.has_cell(turn.tile)) leave(turn);
    if (!goes_on) return;
    look(next);
    if (turns.has_cell(turn.tile)) exchange.clear_last(turn);
    if (next.step != turn.step && turn.step % kOrderedSteps == kOrderedSteps - 1) fence_gpu();
    if (turns.has_cell(next.tile)) prepare(next);
    turn = next;
  }
}

}  // namespace lstm_fused
