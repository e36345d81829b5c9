// Layers of a stack side by side in one launch of kind `group`, each a step behind the one below it. docs/kernels.md
// has the essay.
#pragma once

#include "kernels/group_exchange.cuh"

namespace lstm_fused {

// The 16 bytes at k of a lane's line of W_ih or W_hh, (4H, H): i, f, g, o of one unit, then of the unit 8 further on.
template <class A>
LSTM_FUSED_DEVICE Vector16 load_line(const Element<A>* matrix, int width, bool aligned, int first_unit, int line,
                                     int k) {
  const int gate = line % kNumGates, unit = first_unit + line / kNumGates * kGroups + lane_group();
  return unit < width ? load_factors<A>(matrix + (int64_t{gate} * width + unit) * width, k, width, aligned)
                      : Vector16{};
}

// What the layer of a block has to do with others of its launch: here nothing, as it is the only one.
struct SingleLayer {
  template <class... Any>
  LSTM_FUSED_DEVICE explicit SingleLayer(const Any&...) {}
  LSTM_FUSED_DEVICE bool has_below() const { return false; }
  LSTM_FUSED_DEVICE void wait(const Turns::Turn&) const {}
  template <class Product>
  LSTM_FUSED_DEVICE void multiply(const Turns::Turn&, Product&) const {}
  LSTM_FUSED_DEVICE void prepare(const Turns::Turn&) const {}
  template <class T>
  LSTM_FUSED_DEVICE void send(const Turns::Turn&, T) const {}
};

// Here a layer multiplies h of the one below by W_ih, which lies beside W_hh, and leaves its own h to the one above. h
// of every step has a place of its own, written once: a layer waits for the one below, and never for one above.
template <class A, int kInRegisters>
class StackedLayer {
 public:
  using T = Element<A>;
  static constexpr int kLines = static_cast<int>(kGroupForwardLines);

  template <class Arguments>
  LSTM_FUSED_DEVICE StackedLayer(const Arguments& arguments, const Turns& turns, int first_unit, char* memory)
      : s(arguments.layer.shape),
        p(arguments.layer.direction[block_index().z]),
        turns(turns),
        unit(first_unit + cell_unit()),
        num_blocks(arguments.num_blocks),
        row_bytes(num_blocks * static_cast<int>(kGroupUnits * sizeof(T))),
        weights(memory, has_below() ? arguments.part_chunks : 0, [&](int line, int k) {
          const int width = static_cast<int>(s.hidden_size);
          return load_line<A>(p.w_ih, width, rows_are_aligned<A>(p.w_ih, width), first_unit, line, k);
        }) {
    if (!has_below()) return;
    const auto& below = arguments.layer.direction[block_index().z - 1];
    from_below = below.above;
    arrivals_below = below.arrivals + turns.first_row / kTileRows * kGroupArrivalWords;
  }

  // Otherwise x W_ih^T is given.
  LSTM_FUSED_DEVICE bool has_below() const { return block_index().z > 0; }

  // By one thread, before a barrier of the block: until all blocks below have taken this turn.
  LSTM_FUSED_DEVICE void wait(const Turns::Turn& turn) const {
    if (!has_below()) return;
    spin_wait([&] { return have_arrived(arrivals_below, turn.tile, (turn.step + 2) * num_blocks); });
  }
  // Adds W_ih times what they left.
  LSTM_FUSED_DEVICE void multiply(const Turns::Turn& turn, Product<A, kLines>& product) const {
    if (!has_below()) return;
    const int64_t row = turns.row_of(turn.tile), rows = s.batch - row;
    weights.multiply(
        {from_below + place(turn.step, row), row_bytes, static_cast<int>(rows < kTileRows ? rows : kTileRows)},
        product);
  }

  // By a thread with a cell: sends for what send() needs. Without tensor cores products take all registers.
  LSTM_FUSED_DEVICE void prepare(const Turns::Turn& turn) {
    if (A::kTensorCore) mask = load_mask(turn);
  }
  // h of its cell, to the layer above.
  LSTM_FUSED_DEVICE void send(const Turns::Turn& turn, T h) const {
    const int64_t row = row_of(turn);
    if (p.above == nullptr || row >= s.batch) return;
    if (p.above_mask != nullptr)
      h = round_to<T>(to_accumulator(h) * to_accumulator(A::kTensorCore ? mask : load_mask(turn)));
    store_global(reinterpret_cast<T*>(p.above + place(turn.step, row)) + unit, as_factor<A>(h));
  }

 private:
  LSTM_FUSED_DEVICE int64_t row_of(const Turns::Turn& turn) const { return turns.row_of(turn.tile) + cell_row(); }
  LSTM_FUSED_DEVICE T load_mask(const Turns::Turn& turn) const {
    const int64_t row = row_of(turn);
    const bool exists = p.above_mask != nullptr && row < s.batch && unit < s.hidden_size;
    return exists ? p.above_mask[(turn.step * s.batch + row) * s.hidden_size + unit] : T{};
  }
  LSTM_FUSED_DEVICE int64_t place(uint32_t step, int64_t row) const { return (step * s.batch + row) * row_bytes; }

  const LayerShape& s;
  const ForwardParams<T, Accumulator<T>>& p;
  const Turns& turns;
  const int unit, num_blocks, row_bytes;
  const GroupWeights<A, kLines, kInRegisters> weights;
  const char* from_below = nullptr;
  const uint32_t* arrivals_below = nullptr;
  T mask{};
};

}  // namespace lstm_fused
