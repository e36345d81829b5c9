// What the two kernels of kind `group` share: whose turn it is, what the blocks of a group send each other through
// global memory, and a block's part of W_hh. docs/kernels.md has the essay.
#pragma once

#include "kernels/arguments.h"
#include "kernels/cluster_primitives.cuh"
#include "kernels/lane_cells.cuh"
#include "kernels/row_tiles.cuh"

namespace lstm_fused {

// A layer's Forward- or BackwardArguments, and how the grid covers it.
template <class Layer>
struct GroupArguments {
  Layer layer;
  int64_t rows_per_group;
  int num_blocks;   // of a group
  int num_tiles;    // of rows of the whole batch
  int part_chunks;  // of K for each warp
};

template <bool kBackward>
constexpr int kGroupLines = static_cast<int>(group_lines(kBackward));
template <class A, bool kStacked, bool kBackward>  // chunks of a warp's weights
constexpr int kInRegisters = static_cast<int>(group_chunks_held(A::kTensorCore, kStacked, kBackward));

// The first threads of a block have a cell each; others have the time to wait.
LSTM_FUSED_DEVICE bool has_cell() { return thread_index() < kGroupCells; }
LSTM_FUSED_DEVICE bool waits_for_others() { return thread_index() == kThreads - 1; }
LSTM_FUSED_DEVICE int cell_unit() { return thread_index() % static_cast<int>(kGroupUnits); }
LSTM_FUSED_DEVICE int cell_row() { return thread_index() / static_cast<int>(kGroupUnits); }
static_assert(kGroupCells < kThreads);

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

  // `more`: turns that every tile has beyond its steps. `memory`: kGroupMostTiles ints. A barrier must follow.
  LSTM_FUSED_DEVICE Turns(const Clock& clock, int64_t rows_per_group, uint32_t more, char* memory)
      : first_row(block_index().y * rows_per_group), more(more), steps(reinterpret_cast<uint32_t*>(memory)) {
    const int64_t rows =
        clock.shape.batch - first_row < rows_per_group ? clock.shape.batch - first_row : rows_per_group;
    num_tiles = static_cast<int>((rows + kTileRows - 1) / kTileRows);
    for (int tile = thread_index(); tile < num_tiles; tile += num_threads())
      store_shared(steps + tile, static_cast<uint32_t>(longest(clock, row_of(tile))));
  }

  LSTM_FUSED_DEVICE int64_t row_of(int tile) const { return first_row + tile * kTileRows; }
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
template <class V>
class Exchange {
 public:
  template <class Layer>
  LSTM_FUSED_DEVICE explicit Exchange(const GroupArguments<Layer>& arguments)
      : num_blocks(arguments.num_blocks), row_bytes(num_blocks * static_cast<int>(kGroupUnits * sizeof(V))) {
    const auto& p = arguments.layer.direction[block_index().z];
    const int64_t first_tile = block_index().y * arguments.rows_per_group / kTileRows;
    buffers = p.exchange + first_tile * 2 * kTileRows * row_bytes;
    kept = p.exchange + arguments.num_tiles * 2 * kTileRows * row_bytes +
           ((first_tile * num_blocks + block_index().x) * kGroupCells + thread_index()) * kGroupCarriedBytes;
    arrivals = p.arrivals + first_tile * kGroupArrivalWords;
  }

  LSTM_FUSED_DEVICE int first_unit() const { return block_index().x * static_cast<int>(kGroupUnits); }
  // What this turn multiplies.
  LSTM_FUSED_DEVICE GroupRows rows(const Turns::Turn& turn) const {
    return {buffer(turn.tile, turn.step), row_bytes, static_cast<int>(kTileRows)};
  }

  // Of the calling thread's cell: what this turn reads, and what the tile's next one will.
  LSTM_FUSED_DEVICE V mine(const Turns::Turn& turn) const { return load_global(cell(turn.tile, turn.step)); }
  LSTM_FUSED_DEVICE void send(const Turns::Turn& turn, V value) const {
    store_global(cell(turn.tile, turn.step + 1), value);
  }
  LSTM_FUSED_DEVICE void begin(int tile, V value) const { store_global(cell(tile, 0), value); }

  // By one thread, behind a barrier of the block: its turn with this tile is over, or its begin().
  LSTM_FUSED_DEVICE void arrive(int tile) const { atomic_add_release(arrivals + tile * kGroupArrivalWords, 1); }
  // By one thread, before a barrier of the block: until all have arrived at this turn.
  LSTM_FUSED_DEVICE void wait(const Turns::Turn& turn) const {
    spin_wait([&] { return have_arrived(arrivals, turn.tile, (turn.step + 1) * num_blocks); });
  }

  // Where the calling thread keeps something of its cell while the group takes other tiles.
  template <class K>
  LSTM_FUSED_DEVICE K* keep(int tile) const {
    static_assert(sizeof(K) <= kGroupCarriedBytes);
    return reinterpret_cast<K*>(kept + tile * int64_t{num_blocks} * kGroupCells * kGroupCarriedBytes);
  }

 private:
  LSTM_FUSED_DEVICE char* buffer(int tile, uint32_t step) const {
    return buffers + (2 * tile + (step & 1)) * kTileRows * row_bytes;
  }
  LSTM_FUSED_DEVICE V* cell(int tile, uint32_t step) const {
    return reinterpret_cast<V*>(buffer(tile, step) + cell_row() * row_bytes) + first_unit() + cell_unit();
  }
  const int num_blocks, row_bytes;
  char *buffers, *kept;
  uint32_t* arrivals;
};

// Takes all turns. begin(turn): what needs the layer ahead alone. multiply(turn): the block's product, its sums into
// shared memory. cells(turn): by the threads that have one, of those sums. Where the next turn is another tile's, the
// wait for it is over before this one's arrival is on its way: what that tile's blocks did lies a round of turns back.
// So is the wait for the layer ahead, which waits for nobody here.
template <class Exchange, class Stack, class Begin, class Multiply, class Cells>
LSTM_FUSED_DEVICE void take_turns(Turns& turns, const Exchange& exchange, const Stack& stack, Begin&& begin,
                                  Multiply&& multiply, Cells&& cells) {
  Turns::Turn turn = turns.first();
  block_barrier();
  if (thread_index() == 0)
    for (int tile = 0; tile < turns.num_tiles; ++tile) exchange.arrive(tile);
  if (!turns.exists(turn)) return;
  if (waits_for_others()) {
    stack.wait(turn);
    exchange.wait(turn);
  }
  block_barrier();
  begin(turn);
  while (true) {
    const Turns::Turn next = turns.next(turn);
    const bool goes_on = turns.exists(next), waits_early = goes_on && next.tile != turn.tile;
    multiply(turn);
    block_barrier();
    if (has_cell()) cells(turn);
    if (goes_on && waits_for_others()) stack.wait(next);
    if (waits_early && waits_for_others()) exchange.wait(next);
    block_barrier();
    if (thread_index() == 0) exchange.arrive(turn.tile);
    if (!goes_on) return;
    begin(next);
    if (!waits_early) {
      if (waits_for_others()) exchange.wait(next);
      block_barrier();
    }
    turn = next;
  }
}

// kLines lines of a block's part of a matrix, rows or columns, for each lane, and of them the warp's part of K: the
// first kHeld chunks in registers, the others in shared memory.
template <class A, int kLines, int kHeld>
class GroupWeights {
 public:
  // load(line, k): the 16 bytes at k. Each lane reads its own weights alone.
  template <class Load>
  LSTM_FUSED_DEVICE GroupWeights(char* shared, int part_chunks, Load&& load)
      : part_chunks(part_chunks), shared(shared) {
#pragma unroll
    for (int chunk = 0; chunk < kHeld; ++chunk)
#pragma unroll
      for (int line = 0; line < kLines; ++line)
        held[chunk][line] = chunk < part_chunks ? load(line, first_k(chunk)) : Vector16{};
    for (int chunk = kHeld; chunk < part_chunks; ++chunk)
      for (int line = 0; line < kLines; ++line) store_shared(place(chunk, line), load(line, first_k(chunk)));
  }

  // Where its shared memory ends.
  LSTM_FUSED_DEVICE char* end() const {
    const int others = part_chunks > kHeld ? part_chunks - kHeld : 0;
    return shared + others * static_cast<int>(kGroupWarps) * kLines * kWarpSize * kLaneBytes;
  }

  // Adds the product with `rows`: GroupRows, or others that load as these do.
  template <class Rows>
  LSTM_FUSED_DEVICE void multiply(const Rows& rows, Product<A, kLines>& product) const {
    const auto factor = [&](int n, int chunk) {
      const int at = first_k(chunk) * static_cast<int>(sizeof(Element<A>));
      return chunk < part_chunks && rows.has(n, at) ? rows.load(n, at) : Vector16{};
    };
    if constexpr (A::kTensorCore) {
      // Factors come from L2: kBatch at once, while those before are multiplied.
      Vector16 factors[kBatch], coming[kBatch] = {};
      const auto fetch = [&](int first) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          factors[i] = coming[i];
          coming[i] = factor(lane_group(), first + i);
        }
      };
      fetch(0);
#pragma unroll
      for (int first = 0; first < kHeld; first += kBatch) {
        fetch(first + kBatch);
#pragma unroll
        for (int i = 0; i < kBatch; ++i) product.add(held[first + i], [&](int) { return rows.factors(factors[i]); });
      }
      for (int first = kHeld; first < part_chunks; first += kBatch) {
        fetch(first + kBatch);
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if (first + i < part_chunks) add_shared(product, first + i, [&](int) { return rows.factors(factors[i]); });
      }
    } else {
#pragma unroll
      for (int chunk = 0; chunk < kHeld; ++chunk) product.add(held[chunk], [&](int n) { return factor(n, chunk); });
      for (int chunk = kHeld; chunk < part_chunks; ++chunk)
        add_shared(product, chunk, [&](int n) { return factor(n, chunk); });
    }
  }

 private:
  static constexpr int kBatch = kLines > 2 ? 2 : 4;
  static_assert(kHeld % kBatch == 0 || !A::kTensorCore);

  template <class Factor>
  LSTM_FUSED_DEVICE void add_shared(Product<A, kLines>& product, int chunk, Factor&& factor) const {
    Vector16 weights[kLines];
#pragma unroll
    for (int line = 0; line < kLines; ++line) weights[line] = load_shared(place(chunk, line));
    product.add(weights, factor);
  }
  LSTM_FUSED_DEVICE int first_k(int chunk) const {
    return (warp_index() * part_chunks + chunk) * kChunkElements<A> + lane_pair() * kLaneElements<A>;
  }
  LSTM_FUSED_DEVICE Vector16* place(int chunk, int line) const {
    const int vector = ((chunk - kHeld) * static_cast<int>(kGroupWarps) + warp_index()) * kLines + line;
    return reinterpret_cast<Vector16*>(shared) + vector * kWarpSize + lane_index();
  }
  const int part_chunks;
  char* const shared;
  Vector16 held[kHeld][kLines];
};

// The sums of the warps, each over its part of K: kGates of them for each cell of a block.
template <int kGates>
class GroupSums {
 public:
  static constexpr int kBytes = static_cast<int>(kGroupWarps * kGates * kGroupUnits * kGroupSumStride * sizeof(float));
  char* const memory;

  // The lane's lines, which are its units gate by gate, in its two columns.
  template <class Product>
  LSTM_FUSED_DEVICE void put(Product& product) const {
    product.finish();
#pragma unroll
    for (int line = 0; line < kGates * static_cast<int>(kGroupUnits) / kGroups; ++line) {
      const int unit = line / kGates * kGroups + lane_group();
      store_shared(reinterpret_cast<Two*>(at(warp_index(), line % kGates, unit, lane_pair() * kColumns)),
                   Two{product.at(line, 0), product.at(line, 1)});
    }
  }
  // Of the calling thread's cell.
  LSTM_FUSED_DEVICE float total(int gate) const {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kGroupWarps; ++warp) sum += load_shared(at(warp, gate, cell_unit(), cell_row()));
    return sum;
  }

 private:
  struct alignas(8) Two {
    float first, second;
  };
  LSTM_FUSED_DEVICE float* at(int warp, int gate, int unit, int row) const {
    const int line = (warp * kGates + gate) * static_cast<int>(kGroupUnits) + unit;
    return reinterpret_cast<float*>(memory) + line * static_cast<int>(kGroupSumStride) + row;
  }
};

}  // namespace lstm_fused
