// Layers of a stack side by side in one launch of kind `group`, each a step behind the one before it in the launch: the
// one below forward, the one above backward. docs/kernels.md has the essay.
#pragma once

#include "kernels/columns.cuh"
#include "kernels/group_product.cuh"

namespace lstm_fused {

// What GroupWeights are made of. Forward: of W_ih or W_hh, (4H, H), a lane has the rows i, f, g, o of one unit, then of
// the unit 8 further on.
template <class A, bool kStacked>
class RowSource {
 public:
  LSTM_FUSED_DEVICE RowSource(const Element<A>* matrix, int64_t width, int first_unit)
      : matrix(matrix),
        width(static_cast<int>(width)),
        first_unit(first_unit),
        aligned(rows_are_aligned<A>(matrix, width)) {}
  LSTM_FUSED_DEVICE Vector16 load(int line, int k) const {
    const int gate = line % kNumGates, unit = first_unit + line / kNumGates * kGroups + lane_group();
    if (unit >= width) return {};
    const Element<A>* const row = matrix + (int64_t{gate} * width + unit) * width;
    return load_factors<A, !kStacked>(row, k + lane_pair() * kLaneElements<A>, width, aligned);
  }
  LSTM_FUSED_DEVICE void transpose(Vector16&) const {}

 private:
  const Element<A>* const matrix;
  const int width, first_unit;
  const bool aligned;
};
// Backward: two columns, 8 apart.
template <class A, RowOrder kOrder>
class ColumnSource {
 public:
  LSTM_FUSED_DEVICE ColumnSource(const Element<A>* matrix, int64_t width, int first_unit)
      : columns(matrix, width), first_unit(first_unit) {}
  LSTM_FUSED_DEVICE Vector16 load(int line, int k) const { return columns.load(first_unit + line * kGroups, k); }
  LSTM_FUSED_DEVICE void transpose(Vector16& weights) const { columns.transpose(weights); }

 private:
  const Columns<A, kOrder> columns;
  const int first_unit;
};

// What the layer of a block has to do with others of its launch: here nothing, as it is the only one.
struct SingleLayer {
  template <class... Any>
  LSTM_FUSED_DEVICE explicit SingleLayer(const Any&...) {}
  LSTM_FUSED_DEVICE bool is_first() const { return true; }
  LSTM_FUSED_DEVICE void wait(const Turns::Turn&) const {}
  template <class... Any>
  LSTM_FUSED_DEVICE void multiply(const Any&...) const {}
  LSTM_FUSED_DEVICE void prepare(const Turns::Turn&) const {}
  template <class T>
  LSTM_FUSED_DEVICE void send(const Turns::Turn&, T) const {}
  template <class Turn>
  LSTM_FUSED_DEVICE float with_above(const Turn&, float grad_h) const {
    return grad_h;
  }
};

// Here it follows the layer ahead of it. What that one leaves of a step has a place of its own, written once: a layer
// waits for the one ahead, and never for one behind.
template <class Arguments>
class LayerInLaunch {
 public:
  LSTM_FUSED_DEVICE LayerInLaunch(const Arguments& arguments, const Turns& turns)
      : s(arguments.layer.shape), turns(turns), arguments(arguments) {}

  LSTM_FUSED_DEVICE bool is_first() const { return block_index().z == 0; }

 protected:
  LSTM_FUSED_DEVICE const auto& own() const { return arguments.layer.direction[block_index().z]; }
  LSTM_FUSED_DEVICE const auto& ahead() const { return arguments.layer.direction[block_index().z - 1]; }

  // By one thread, before a barrier of the block: until all blocks of the layer ahead have taken this turn.
  LSTM_FUSED_DEVICE void wait_for_ahead(const Turns::Turn& turn) const {
    const uint32_t* const arrivals =
        ahead().arrivals + int64_t{block_index().y} * arguments.tiles_per_group * kGroupArrivalWords;
    spin_wait([&] { return have_arrived(arrivals, turn.tile, (turn.step + 2) * arguments.num_blocks); });
  }
  // The tile's rows that exist, `bytes` each, in a tensor that has B of them for each time.
  LSTM_FUSED_DEVICE GroupRows rows(const void* first, int tile, int64_t time, int bytes) const {
    const int64_t row = turns.row_of(tile);
    return {static_cast<const char*>(first) + (time * s.batch + row) * bytes, bytes, static_cast<int>(s.batch - row)};
  }
  // Of the calling thread's cell.
  LSTM_FUSED_DEVICE int unit() const { return block_index().x * static_cast<int>(kGroupUnits) + cell_unit(); }
  LSTM_FUSED_DEVICE int64_t row_of(const Turns::Turn& turn) const { return turns.row_of(turn.tile) + cell_row(); }
  template <class T>
  LSTM_FUSED_DEVICE T load_mask(const T* mask, const Turns::Turn& turn, int64_t time) const {
    const bool exists = mask != nullptr && row_of(turn) < s.batch && unit() < s.hidden_size;
    return exists ? mask[(time * s.batch + row_of(turn)) * s.hidden_size + unit()] : T{};
  }

  const LayerShape& s;
  const Turns& turns;

 private:
  const Arguments& arguments;
};

// Forward: multiplies h of the layer below by W_ih, which lies beside W_hh, and leaves its own h to the one above.
template <class A, class Arguments>
class StackedForward : public LayerInLaunch<Arguments> {
 public:
  using Base = LayerInLaunch<Arguments>;
  using T = Element<A>;
  static constexpr int kLines = kGroupLines<false>;

  LSTM_FUSED_DEVICE StackedForward(const Arguments& arguments, const Turns& turns, int first_unit, char* memory)
      : Base(arguments, turns),
        row_bytes(arguments.num_blocks * static_cast<int>(kGroupUnits * sizeof(T))),
        weights(memory, is_first() ? 0 : arguments.part_chunks,
                RowSource<A, true>(own().w_ih, s.hidden_size, first_unit)) {}

  using Base::is_first;  // and x W_ih^T is given
  LSTM_FUSED_DEVICE void wait(const Turns::Turn& turn) const {
    if (!is_first()) this->wait_for_ahead(turn);
  }
  // Adds W_ih times what the layer below left.
  LSTM_FUSED_DEVICE void multiply(const Turns::Turn& turn, GroupProducts<A, kLines, true>& products) const {
    if (is_first()) return;
    weights.multiply(this->rows(ahead().above, turn.tile, turn.step, row_bytes), turns.is_wide(turn.tile), products);
  }

  // By a thread with a cell: sends for what send() needs. Without tensor cores products take all registers.
  LSTM_FUSED_DEVICE void prepare(const Turns::Turn& turn) {
    if (A::kTensorCore) mask = mask_of(turn);
  }
  // h of its cell, to the layer above.
  LSTM_FUSED_DEVICE void send(const Turns::Turn& turn, T h) const {
    const int64_t row = this->row_of(turn);
    if (own().above == nullptr || row >= s.batch) return;
    if (own().above_mask != nullptr)
      h = round_to<T>(to_accumulator(h) * to_accumulator(A::kTensorCore ? mask : mask_of(turn)));
    char* const to = own().above + (turn.step * s.batch + row) * row_bytes;
    store_global(reinterpret_cast<T*>(to) + this->unit(), as_factor<A>(h));
  }

 private:
  LSTM_FUSED_DEVICE T mask_of(const Turns::Turn& turn) const {
    return this->load_mask(own().above_mask, turn, turn.step);
  }

  using Base::ahead;
  using Base::own;
  using Base::s;
  using Base::turns;
  const int row_bytes;
  const GroupWeights<A, kLines, true> weights;
  T mask{};
};

// Rows of grad_gates (T, B, 4H), as they lie there.
template <class A>
struct GateRows : GroupRows {
  LSTM_FUSED_DEVICE Vector16 load(int n, int at) const {
    // Of 16 bits, where H is odd: rows are an odd number of 8 bytes.
    if (sizeof(Element<A>) < sizeof(float) && bytes % kLaneBytes != 0) return load_halves(first + n * bytes + at, at);
    return GroupRows::load(n, at);
  }
  LSTM_FUSED_DEVICE Vector16 factors(Vector16 loaded) const {
    if constexpr (std::is_same_v<A, TF32>) {
#pragma unroll
      for (uint32_t& word : loaded.word) word = round_to_tf32(word);
    }
    return loaded;
  }

 private:
  struct alignas(8) Half {
    uint32_t word[2];
  };
  LSTM_FUSED_DEVICE Vector16 load_halves(const char* from, int at) const {
    Half halves[2] = {load_global(reinterpret_cast<const Half*>(from)), {}};
    if (at + static_cast<int>(sizeof(Half)) < bytes) halves[1] = load_global(reinterpret_cast<const Half*>(from) + 1);
    Vector16 factors;
    std::memcpy(&factors, halves, sizeof(factors));
    return factors;
  }
};

// Backward: multiplies grad_gates of the layer above by that one's W_ih. They are read where they were left for the
// weights' gradients.
template <class A, class Arguments>
class StackedBackward : public LayerInLaunch<Arguments> {
 public:
  using Base = LayerInLaunch<Arguments>;
  using T = Element<A>;
  using Sums = GroupSums<1, kTurnRows<A, true>>;
  static constexpr int kLines = kGroupLines<true>;

  LSTM_FUSED_DEVICE StackedBackward(const Arguments& arguments, const Turns& turns, int first_unit, char* memory)
      : Base(arguments, turns),
        sums{shared_memory() + Sums::kBytes},
        weights(memory, is_first() ? 0 : arguments.part_chunks,
                ColumnSource<A, RowOrder::kAsTheyLie>(is_first() ? nullptr : ahead().w_ih, s.hidden_size, first_unit)) {
  }

  using Base::is_first;
  LSTM_FUSED_DEVICE void wait(const Turns::Turn& turn) const {
    if (follows(turn)) this->wait_for_ahead(turn);
  }
  // The sums stay apart from those of W_hh, which dropout has no part in.
  LSTM_FUSED_DEVICE void multiply(const Turns::Turn& turn) const {
    if (!follows(turn)) return;
    const int row_bytes = static_cast<int>(kNumGates * s.hidden_size * sizeof(T));
    const bool wide = turns.is_wide(turn.tile);
    GroupProducts<A, kLines, true> products;
    weights.multiply(GateRows<A>{this->rows(ahead().grad_gates, turn.tile, time(turn), row_bytes)}, wide, products);
    sums.put(products, wide);
  }

  // By a thread with a cell: as forward.
  LSTM_FUSED_DEVICE void prepare(const Turns::Turn& turn) {
    if (A::kTensorCore && follows(turn)) mask = mask_of(turn);
  }
  // grad_h of its cell, with what comes from the layer above.
  LSTM_FUSED_DEVICE float with_above(const Turns::Turn& turn, float grad_h) const {
    if (is_first()) return grad_h;
    const bool masked = ahead().input_mask != nullptr;
    return grad_h + (masked ? to_accumulator(A::kTensorCore ? mask : mask_of(turn)) : 1) * sums.total().of[0];
  }

 private:
  // A tile's last turn is for h_0, which the layer above has no part in.
  LSTM_FUSED_DEVICE bool follows(const Turns::Turn& turn) const {
    return !is_first() && turn.step < turns.num_steps(turn.tile);
  }
  LSTM_FUSED_DEVICE int64_t time(const Turns::Turn& turn) const { return turns.num_steps(turn.tile) - 1 - turn.step; }
  LSTM_FUSED_DEVICE T mask_of(const Turns::Turn& turn) const {
    return this->load_mask(ahead().input_mask, turn, time(turn));
  }

  using Base::ahead;
  using Base::s;
  using Base::turns;
  const Sums sums;
  const GroupWeights<A, kLines, true> weights;
  T mask{};
};

}  // namespace lstm_fused
