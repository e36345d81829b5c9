// Layers of a stack side by side in one launch of kind `group`, each a step behind the one before it in the launch: the
// one below forward, the one above backward. docs/kernels.md has the essay.
#pragma once

#include "kernels/columns.cuh"
#include "kernels/group_product.cuh"

namespace lstm_fused {

// What GroupWeights are made of. Forward: of W_ih or W_hh, (4H, H), a lane has the rows i, f, g, o of one unit, then of
// the unit 8 further on.
template <class A>
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
    return load_factors<A, /*kCalls=*/false>(row, k + lane_pair() * kLaneElements<A>, width, aligned);
  }
  LSTM_FUSED_DEVICE void transpose(Vector16&) const {}

 private:
  const Element<A>* const matrix;
  const int width, first_unit;
  const bool aligned;
};
// Backward: two columns, 8 apart.
template <class A>
class ColumnSource {
 public:
  LSTM_FUSED_DEVICE ColumnSource(const Element<A>* matrix, int64_t width, int first_unit)
      : columns(matrix, width), first_unit(first_unit) {}
  LSTM_FUSED_DEVICE Vector16 load(int line, int k) const { return columns.load(first_unit + line * kGroups, k); }
  LSTM_FUSED_DEVICE void transpose(Vector16& weights) const { columns.transpose(weights); }

 private:
  const Columns<A> columns;
  const int first_unit;
};

// What the layer of a block has to do with others of its launch: here nothing, as it is the only one.
struct SingleLayer {
  template <class... Any>
  LSTM_FUSED_DEVICE explicit SingleLayer(const Any&...) {}
  LSTM_FUSED_DEVICE bool is_first() const { return true; }
  template <class... Any>
  LSTM_FUSED_DEVICE void multiply(const Any&...) const {}
  LSTM_FUSED_DEVICE void prepare(const Turns::Turn&) const {}
  template <class V>
  LSTM_FUSED_DEVICE void send(const Turns::Turn&, const V&) const {}
  LSTM_FUSED_DEVICE float with_above(const Turns::Turn&, float grad_h) const { return grad_h; }
};

// Here it follows the layer ahead of it, which leaves it a V of each cell. What is left of a step has a place of its
// own, written once: a layer waits for the one ahead, and never for one behind.
template <class V, class Arguments>
class LayerInLaunch {
 public:
  LSTM_FUSED_DEVICE LayerInLaunch(const Arguments& arguments, const Turns& turns)
      : s(arguments.layer.shape),
        turns(turns),
        arguments(arguments),
        row_bytes(arguments.num_blocks * static_cast<int>(kGroupUnits * sizeof(V))) {}

  LSTM_FUSED_DEVICE bool is_first() const { return block_index().z == 0; }

 protected:
  LSTM_FUSED_DEVICE const auto& own() const { return arguments.layer.direction[block_index().z]; }
  LSTM_FUSED_DEVICE const auto& ahead() const { return arguments.layer.direction[block_index().z - 1]; }

  // Of the calling thread's cell, to the next layer, if there is one.
  LSTM_FUSED_DEVICE void leave(const Turns::Turn& turn, const V& value) const {
    if (own().onward == nullptr) return;
    char* const row = own().onward + (turn.step * s.batch + row_of(turn)) * row_bytes;
    send_to(reinterpret_cast<V*>(row) + unit(), value, row_of(turn) < s.batch);
  }
  LSTM_FUSED_DEVICE int unit() const { return block_index().x * static_cast<int>(kGroupUnits) + cell_unit(); }
  LSTM_FUSED_DEVICE int64_t row_of(const Turns::Turn& turn) const { return turns.row_of(turn.tile) + cell_row(); }
  template <class T>
  LSTM_FUSED_DEVICE T load_mask(const T* mask, const Turns::Turn& turn, int64_t time) const {
    const bool exists = mask != nullptr && row_of(turn) < s.batch && unit() < s.hidden_size;
    return exists ? mask[(time * s.batch + row_of(turn)) * s.hidden_size + unit()] : T{};
  }

  // What the layer ahead has left of this turn.
  template <class Weights, class Product>
  LSTM_FUSED_DEVICE void add(const Turns::Turn& turn, const Weights& weights, Product& product) const {
    const auto its = weights.part(rows(turn));
    typename Weights::Looks looks;
    weights.look(its, 0, looks);
    weights.multiply(its, looks, product);
  }

  const LayerShape& s;
  const Turns& turns;

 private:
  // Of the tile's rows that exist.
  LSTM_FUSED_DEVICE GroupRows rows(const Turns::Turn& turn) const {
    const int64_t row = turns.row_of(turn.tile);
    return {ahead().onward + (turn.step * s.batch + row) * row_bytes, row_bytes, static_cast<int>(s.batch - row)};
  }

  const Arguments& arguments;
  const int row_bytes;
};

// Forward: multiplies h of the layer below by W_ih, which lies beside W_hh, and leaves its own h to the one above.
template <class A, class Arguments>
class StackedForward : public LayerInLaunch<Element<A>, Arguments> {
 public:
  using T = Element<A>;
  using Base = LayerInLaunch<T, Arguments>;
  static constexpr int kLines = kGroupLines<false>;

  LSTM_FUSED_DEVICE StackedForward(const Arguments& arguments, const Turns& turns, int first_unit, char* memory)
      : Base(arguments, turns),
        weights(memory, is_first() ? 0 : arguments.part_chunks, RowSource<A>(own().w_ih, s.hidden_size, first_unit)) {}

  using Base::is_first;  // and x W_ih^T is given
  // Adds W_ih times what the layer below left.
  LSTM_FUSED_DEVICE void multiply(const Turns::Turn& turn, GroupProduct<A, kLines>& product) const {
    if (!is_first()) this->add(turn, weights, product);
  }

  // By a thread with a cell: sends for what send() needs. Without tensor cores products take all registers.
  LSTM_FUSED_DEVICE void prepare(const Turns::Turn& turn) {
    if (A::kTensorCore) mask = mask_of(turn);
  }
  // h of its cell, to the layer above.
  LSTM_FUSED_DEVICE void send(const Turns::Turn& turn, T h) const {
    if (own().onward_mask != nullptr)
      h = round_to<T>(to_accumulator(h) * to_accumulator(A::kTensorCore ? mask : mask_of(turn)));
    this->leave(turn, as_factor<A>(h));
  }

 private:
  LSTM_FUSED_DEVICE T mask_of(const Turns::Turn& turn) const {
    return this->load_mask(own().onward_mask, turn, turn.step);
  }

  using Base::own;
  using Base::s;
  const GroupWeights<A, kLines, true> weights;
  T mask{};
};

// Backward: multiplies grad_gates of the layer above by that one's W_ih, and leaves its own to the one below.
template <class A, class Arguments>
class StackedBackward : public LayerInLaunch<GateFactors<Element<A>>, Arguments> {
 public:
  using T = Element<A>;
  using Base = LayerInLaunch<GateFactors<T>, Arguments>;
  using Sums = GroupSums<1, true>;
  static constexpr int kLines = kGroupLines<true>;

  LSTM_FUSED_DEVICE StackedBackward(const Arguments& arguments, const Turns& turns, int first_unit, char* memory)
      : Base(arguments, turns),
        sums{shared_memory() + Sums::bytes()},
        weights(memory, is_first() ? 0 : arguments.part_chunks,
                ColumnSource<A>(is_first() ? nullptr : ahead().w_ih, s.hidden_size, first_unit)) {}

  using Base::is_first;
  // The sums stay apart from those of W_hh, which dropout has no part in.
  LSTM_FUSED_DEVICE void multiply(const Turns::Turn& turn) const {
    if (!follows(turn)) return;
    GroupProduct<A, kLines> product;
    this->add(turn, weights, product);
    sums.put(product);
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
  // grad_gates of its cell, to the layer below.
  LSTM_FUSED_DEVICE void send(const Turns::Turn& turn, const GateFactors<T>& factors) const {
    this->leave(turn, factors);
  }

 private:
  // A tile's last turn is for h_0, which the layer above has no part in.
  LSTM_FUSED_DEVICE bool follows(const Turns::Turn& turn) const {
    return !is_first() && turn.step < turns.num_steps(turn.tile);
  }
  LSTM_FUSED_DEVICE T mask_of(const Turns::Turn& turn) const {
    return this->load_mask(ahead().input_mask, turn, turns.num_steps(turn.tile) - 1 - turn.step);
  }

  using Base::ahead;
  using Base::s;
  using Base::turns;
  const Sums sums;
  const GroupWeights<A, kLines, true> weights;
  T mask{};
};

}  // namespace lstm_fused
