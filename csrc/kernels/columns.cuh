// Columns of W_hh or W_ih as factors of backward's product: the matrices lie by rows, so a lane's elements lie far
// apart. k counts their 4H rows unit by unit, gate by gate.
#pragma once

#include "kernels/product.cuh"

namespace lstm_fused {

template <class A>
class Columns {
 public:
  using T = Element<A>;

  LSTM_FUSED_DEVICE Columns(const T* matrix, int64_t width)
      : matrix(matrix), width(static_cast<int>(width)), aligned(rows_are_aligned<A>(matrix, width)) {}

  // Elements k, k + 1, ... of the column of the lane's group among the 8 from `first` on, zero outside, in two parts:
  // transpose() follows, for which all lanes come, so that many loads are on their way before the first one is used.
  // `k` is that of a chunk, of which a lane has its pair's part.
  LSTM_FUSED_DEVICE Vector16 load(int first, int k) const {
    const int at = k + lane_pair() * kLaneElements<A>;
    if (!aligned) return load_one_by_one(matrix, width, first + lane_group(), at);
    // Of 16 bits, each of the 8 groups loads another row, of all 8 columns; else of 4 columns.
    const int row = row_of(at + lane_group() % kLaneElements<A>);
    const int column = first + lane_group() / kLaneElements<A> * kLaneElements<A>;
    if (row < 0 || column >= width) return {};
    return *reinterpret_cast<const Vector16*>(matrix + int64_t{row} * width + column);
  }
  LSTM_FUSED_DEVICE void transpose(Vector16& v) const {
    if (!aligned) return;
    const int group = lane_group();
    if constexpr (sizeof(T) == 2) {
      exchange(v.word[0], v.word[2], 4, group);
      exchange(v.word[1], v.word[3], 4, group);
      exchange(v.word[0], v.word[1], 2, group);
      exchange(v.word[2], v.word[3], 2, group);
#pragma unroll
      for (uint32_t& word : v.word) {
        const uint32_t other = shuffle_xor(word, kPairs);
        word = group & 1 ? (other >> 16) | (word & 0xffff0000u) : (word & 0xffffu) | (other << 16);
      }
    } else {
      exchange(v.word[0], v.word[2], 2, group);
      exchange(v.word[1], v.word[3], 2, group);
      exchange(v.word[0], v.word[1], 1, group);
      exchange(v.word[2], v.word[3], 1, group);
      if constexpr (std::is_same_v<A, TF32>) {
#pragma unroll
        for (uint32_t& word : v.word) word = round_to_tf32(word);
      }
    }
  }

 private:
  // -1: there is none.
  LSTM_FUSED_DEVICE int row_of(int k) const {
    return k < kNumGates * width ? k % kNumGates * width + k / kNumGates : -1;
  }
  // Lanes whose groups differ in `bit` exchange the upper word of the one without it and the lower one of the other.
  static LSTM_FUSED_DEVICE void exchange(uint32_t& lower, uint32_t& upper, int bit, int group) {
    const bool has_bit = group & bit;
    const uint32_t got = shuffle_xor(has_bit ? lower : upper, bit * kPairs);
    lower = has_bit ? got : lower;
    upper = has_bit ? upper : got;
  }
  // Out of line: it is called once per weight, and would be most of a kernel's code.
  static LSTM_FUSED_DEVICE_CALL Vector16 load_one_by_one(const T* matrix, int width, int unit, int k) {
    T x[kLaneElements<A>];
#pragma unroll
    for (int e = 0; e < kLaneElements<A>; ++e) {
      const int at = k + e, row = at % kNumGates * width + at / kNumGates;
      x[e] = at < kNumGates * width && unit < width ? as_factor<A>(matrix[int64_t{row} * width + unit]) : T{};
    }
    return pack_factors<A>(x);
  }

  const T* const matrix;
  const int width;
  const bool aligned;
};

// `count` chunks of lines, and zeros behind: line l's columns are the 8 from first + 8 l on.
template <class A, int kChunks, int kLines>
LSTM_FUSED_DEVICE void load_columns(const Columns<A>& columns, int first, int k, int count,
                                    Vector16 (&weights)[kChunks][kLines]) {
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk)
#pragma unroll
    for (int line = 0; line < kLines; ++line)
      weights[chunk][line] =
          chunk < count ? columns.load(first + line * kGroups, k + chunk * kChunkElements<A>) : Vector16{};
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk)
#pragma unroll
    for (int line = 0; line < kLines; ++line) columns.transpose(weights[chunk][line]);
}

}  // namespace lstm_fused
