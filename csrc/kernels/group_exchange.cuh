// What the two kernels of kind `group` share: whose turn it is, what the blocks of a group send each other through
// global memory, and a block's part of W_hh. docs/kernels.md has the essay.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/cells.cuh"
#include "kernels/cluster_primitives.cuh"
#include "kernels/row_tiles.cuh"

namespace lstm_fused {

// A layer's Forward- or BackwardArguments, and how the grid covers it.
template <class Layer>
struct GroupArguments {
  Layer layer;
  int64_t rows_per_group;
  int num_blocks;       // of a group
  int tiles_per_group;  // of 8 rows: what a turn takes
  int part_chunks;      // of K for each warp
};
template <bool kStacked>
constexpr int kMostSideBySide = kStacked ? static_cast<int>(kGroupMostLayers) : 2;
template <class CellKind, class A, bool kStacked>
using GroupForwardArguments = GroupArguments<ForwardArgumentsOf<CellKind, A, kMostSideBySide<kStacked>>>;
template <class CellKind, class A, bool kStacked>
using GroupBackwardArguments = GroupArguments<BackwardArgumentsOf<CellKind, A, kMostSideBySide<kStacked>>>;

template <bool kBackward>
constexpr int kGroupLines = static_cast<int>(group_lines(kBackward));
template <class A, bool kStacked, bool kBackward>  // chunks of a warp's weights
constexpr int kInRegisters = static_cast<int>(group_chunks_held({dtype_of<A>, A::kTensorCore, kStacked, kBackward}));

template <class A, bool kStacked>
constexpr int kNumSums = static_cast<int>(group_num_sums(dtype_of<A>, kStacked));
// A thread has a cell of a turn. In a block with twice as many threads half of its warps have those of one turn, the
// others those of the next.
constexpr int kTurnCells = static_cast<int>(kTileRows * kGroupUnits);
static_assert(2 * kTurnCells == kThreads);
template <bool kStacked>
LSTM_FUSED_DEVICE int num_warps() {
  return kStacked ? static_cast<int>(kGroupWarps) : num_threads() / kWarpSize;
}
template <bool kStacked>
LSTM_FUSED_DEVICE int num_halves() {
  return num_warps<kStacked>() * kWarpSize / kTurnCells;
}
LSTM_FUSED_DEVICE int own_half() { return thread_index() / kTurnCells; }
LSTM_FUSED_DEVICE int own_cell() { return thread_index() % kTurnCells; }
LSTM_FUSED_DEVICE int cell_unit() { return own_cell() % static_cast<int>(kGroupUnits); }
LSTM_FUSED_DEVICE int cell_row() { return own_cell() / static_cast<int>(kGroupUnits); }

// The turns of a group: step 0 of each of its tiles of 8 rows, step 1 of each, and so on. Tiles with fewer steps drop
// out.
class Turns {
 public:
  struct Turn {
    int tile;
    uint32_t step;
  };
  const int64_t first_row;
  int num_tiles;

  // `more`: turns that every tile has beyond its steps. `memory`: an int for each tile. A barrier must follow.
  LSTM_FUSED_DEVICE Turns(const Clock& clock, int64_t rows_per_group, uint32_t more, char* memory)
      : first_row(block_index().y * rows_per_group), more(more), steps(reinterpret_cast<uint32_t*>(memory)) {
    const int64_t left = clock.shape.batch - first_row;
    const int num_rows = static_cast<int>(left < rows_per_group ? left : rows_per_group);
    num_tiles = (num_rows + kRows - 1) / kRows;
    for (int tile = thread_index(); tile < num_tiles; tile += num_threads()) {
      const int rows = num_rows - tile * kRows;
      store_shared(steps + tile, static_cast<uint32_t>(longest(clock, row_of(tile), rows < kRows ? rows : kRows)));
    }
  }

  LSTM_FUSED_DEVICE int64_t row_of(int tile) const { return first_row + tile * kRows; }
  LSTM_FUSED_DEVICE uint32_t num_steps(int tile) const { return ragged ? load_shared(steps + tile) : most - more; }
  LSTM_FUSED_DEVICE Turn first() {
    const uint32_t of_first = num_steps(0);
    bool alike = true;
    for (int tile = 0; tile < num_tiles; ++tile) {
      const uint32_t of_tile = num_steps(tile);
      alike &= of_tile == of_first;
      most = of_tile + more > most ? of_tile + more : most;
    }
    ragged = !alike;
    Turn turn{0, 0};
    if (ragged) skip_ended(turn);
    return turn;
  }
  // Whether tiles have different numbers of steps.
  LSTM_FUSED_DEVICE bool are_ragged() const { return ragged; }
  // As if no tile had ended.
  LSTM_FUSED_DEVICE Turn next(const Turn& turn) const {
    const bool wraps = turn.tile + 1 == num_tiles;
    return {wraps ? 0 : turn.tile + 1, turn.step + wraps};
  }
  // On to a turn that exists, if there is one.
  LSTM_FUSED_DEVICE void skip_ended(Turn& turn) const {
    while (exists(turn) && turn.step >= num_steps(turn.tile) + more) turn = next(turn);
  }
  LSTM_FUSED_DEVICE bool exists(const Turn& turn) const { return turn.step < most; }

 private:
  static constexpr int kRows = static_cast<int>(kTileRows);
  const uint32_t more;
  uint32_t* const steps;
  uint32_t most = 0;
  bool ragged = true;  // tiles have different numbers of steps, as far as is known
};

// What a block has of each of its tiles in shared memory: how many steps, and a Carried of each cell, from its turn in
// one step to that in the next.
template <class Carried>
struct GroupTiles {
  char* const memory;
  static_assert(sizeof(Carried) <= kGroupCarriedBytes);
  // Of the calling thread's cell in a tile.
  LSTM_FUSED_DEVICE Carried* carried(int tile) const {
    return reinterpret_cast<Carried*>(memory + (tile * kTurnCells + own_cell()) * static_cast<int>(kGroupCarriedBytes));
  }
  LSTM_FUSED_DEVICE char* steps(int num_tiles) const {
    return memory + num_tiles * kTurnCells * static_cast<int>(kGroupCarriedBytes);
  }
  LSTM_FUSED_DEVICE char* end(int num_tiles) const { return memory + num_tiles * static_cast<int>(kGroupTileBytes); }
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
};

template <int n>
LSTM_FUSED_DEVICE bool is_whole(const Words<n>& v) {
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

// Until look() finds what it looks for.
template <class Look>
LSTM_FUSED_DEVICE void look_until(Look&& look) {
  spin_wait(look);
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
  look_until([&] {
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
template <class V, class Arguments>
class Exchange {
 public:
  using Turn = Turns::Turn;
  LSTM_FUSED_DEVICE explicit Exchange(const Arguments& arguments)
      : row_bytes(arguments.num_blocks * static_cast<uint32_t>(kGroupUnits * sizeof(V))),
        tiles(arguments.layer.direction[block_index().z].exchange +
              int64_t{block_index().y} * arguments.tiles_per_group * kSlots * kRows * row_bytes),
        cells(tiles + cell_row() * row_bytes + (first_unit() + cell_unit()) * static_cast<uint32_t>(sizeof(V))) {}

  LSTM_FUSED_DEVICE static int first_unit() { return block_index().x * static_cast<int>(kGroupUnits); }
  // What any turn multiplies lies so many bytes behind this.
  LSTM_FUSED_DEVICE GroupRows rows() const { return {tiles, static_cast<int>(row_bytes), kRows}; }
  // For those who form such places themselves: which slot of all it is, how far the next one is behind it, and where
  // the calling thread's words of the first lie.
  LSTM_FUSED_DEVICE static uint32_t slot(const Turn& turn) { return turn.tile * kSlots + turn.step % kSlots; }
  LSTM_FUSED_DEVICE uint32_t slot_bytes() const { return kRows * row_bytes; }
  LSTM_FUSED_DEVICE V* cell_words() const { return reinterpret_cast<V*>(cells); }
  LSTM_FUSED_DEVICE uint64_t place(const Turn& turn) const { return place(turn.tile, turn.step); }

  // Of the calling thread's cell: what this turn reads, which another thread may have sent; and what the tile's next
  // one will.
  LSTM_FUSED_DEVICE V mine(const Turn& turn) const {
    V value;
    WordsOf<V> words;
    look_until([&] {
      words = load_relaxed(reinterpret_cast<const WordsOf<V>*>(cell(turn.tile, turn.step)));
      return is_whole(words);
    });
    std::memcpy(&value, &words, sizeof(value));
    return value;
  }
  LSTM_FUSED_DEVICE void send(const Turn& turn, const V& value) const {
    send_to(cell(turn.tile, turn.step + 1), value);
  }
  // Behind a barrier that is behind this turn's products: what the step before it read is missing again.
  LSTM_FUSED_DEVICE void clear_last(const Turn& turn) const { clear(cell(turn.tile, turn.step - 1)); }
  LSTM_FUSED_DEVICE void begin(int tile, const V& value) const { send_to(cell(tile, 0), value); }

 private:
  static constexpr uint32_t kSlots = static_cast<uint32_t>(kGroupSlots);
  static constexpr int kRows = static_cast<int>(kTileRows);
  // Of a tile's slot, in bytes. Both factors have 32 bits: one instruction.
  LSTM_FUSED_DEVICE uint64_t place(int tile, uint32_t step) const {
    return uint64_t{slot({tile, step})} * slot_bytes();
  }
  LSTM_FUSED_DEVICE V* cell(int tile, uint32_t step) const { return reinterpret_cast<V*>(cells + place(tile, step)); }

  const uint32_t row_bytes;
  char* const tiles;  // of the group
  char* const cells;  // the calling thread's, of the first
};

// From one fence of a thread to the next it is so many steps at most; docs/kernels.md counts what lies between the
// clearing of a slot and the look that finds it.
constexpr uint32_t kOrderedSteps = 4;
static_assert(2 * kOrderedSteps + 4 < kGroupSlots - 2);

// Takes all turns of a kernel:
//   look(turn)             looks at what others may have sent
//   multiply(turn, place)  the block's products, once it is all there; their sums into that place of kSums
// and all of the warps, or two halves of them alternately:
//   prepare(turn, own)     before: sends for what the cells need, after those of turn `own`
//   cells(turn, place)     of those sums, and sends what others wait for
//   leave(turn)            stores what nobody waits for; of two halves while the other one has cells
template <int kSums, bool kStacked, class Exchange, class Prepare, class Look, class Multiply, class Cells, class Leave>
LSTM_FUSED_DEVICE void take_turns(Turns& turns, const Exchange& exchange, Prepare&& prepare, Look&& look,
                                  Multiply&& multiply, Cells&& cells, Leave&& leave) {
  Turns::Turn turn = turns.first(), own{-1, 0};  // of the calling thread, the turn of its cells, ahead or behind
  if (!turns.exists(turn)) return;
  const bool alternates = num_halves<kStacked>() > 1;
  bool is_own = own_half() == 0;
  int place = 0;  // of the turn's sums
  look(turn);
  if (is_own) {
    prepare(turn, own);
    own = turn;
  }
  // A half comes to fences while the other one has cells: in every step, where all have turns of several tiles, else in
  // every other at least; a block of one half in every step.
  const bool several = !turns.are_ragged() && turns.num_tiles > 1;
  const uint32_t due = several || !alternates ? kOrderedSteps : kOrderedSteps - 1;
  uint32_t ordered = due;
  const auto settle = [&] {  // what nobody waits for, of the last turn of its own
    if (turn.step >= ordered) {
      fence_gpu();
      ordered = turn.step + due;
    }
    if (own.tile >= 0) {
      leave(own);
      exchange.clear_last(own);
    }
  };
  do {
    multiply(turn, place);
    Turns::Turn next = turns.next(turn);
    bool apart = kSums > 1 && several;  // the next turn needs neither this one's cells nor its place of sums
    if (turns.are_ragged()) {
      turns.skip_ended(next);
      apart = kSums > 1 && next.tile != turn.tile;
    }
    if (apart) look(next);
    block_barrier();
    if (is_own) {
      cells(turn, place);
      if (!alternates) settle();
    } else {
      settle();
    }
    if (!apart) {
      block_barrier();  // sums in one place have been read; nor is it worth a look before this block has sent
      look(next);
    }
    is_own = is_own != alternates;
    if (is_own && turns.exists(next)) {
      prepare(next, own);
      own = next;
    }
    place ^= kSums - 1;
    turn = next;
  } while (turns.exists(turn));
  if (!is_own) leave(own);
}

}  // namespace lstm_fused
