// A warp's product of matrix rows by rows of the batch, and the arithmetic that it is formed in.
// Lane = 4 * group + pair. A lane holds R rows of the matrix, and of each the 16 bytes of a chunk (kChunkBytes) that
// begin at 16 * pair. Chunks are consumed in that order for both factors, so that every load is 16 bytes wide; which k
// meets which does not matter to a sum over k. The result for columns (rows of the batch) 2 pair and 2 pair + 1 of the
// tile ends in this lane: for the four rows of W_hh of a unit, that is i, f, g and o of the lane's own cells.
#pragma once

#include <cstring>
#include <type_traits>

#include "cell.h"
#include "kernels/primitives.cuh"
#include "tiles.h"

namespace lstm_fused {

constexpr int kLaneBytes = 16;
constexpr int kPairs = 4;                       // lanes that share a row
constexpr int kGroups = kWarpSize / kPairs;     // 8
constexpr int kColumns = 2;                     // columns of the result per lane
static_assert(kTileRows == kPairs * kColumns);  // N of mma.sync
static_assert(kTileRows == kGroups);            // a lane fetches the row of the batch of its group
static_assert(kChunkBytes == kLaneBytes * kPairs);

LSTM_FUSED_DEVICE int lane_group() { return lane_index() / kPairs; }
LSTM_FUSED_DEVICE int lane_pair() { return lane_index() % kPairs; }

// ---- arithmetics: what the elements are, and how a chunk is multiplied

struct Float16 {
  using Element = float16;
  static constexpr bool kTensorCore = true;
  static LSTM_FUSED_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_float16(d, a, b);
  }
};
struct BFloat16 {
  using Element = bfloat16;
  static constexpr bool kTensorCore = true;
  static LSTM_FUSED_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_bfloat16(d, a, b);
  }
};
struct TF32 {
  using Element = float;
  static constexpr bool kTensorCore = true;
  static LSTM_FUSED_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_tf32(d, a, b);
  }
};
struct Float32 {
  using Element = float;
  static constexpr bool kTensorCore = false;
};
struct Float64 {
  using Element = double;
  static constexpr bool kTensorCore = false;
};

template <class A>
using Element = typename A::Element;
template <class A>
constexpr DType dtype_of = std::is_same_v<Element<A>, float16>    ? DType::kFloat16
                           : std::is_same_v<Element<A>, bfloat16> ? DType::kBFloat16
                           : std::is_same_v<Element<A>, double>   ? DType::kFloat64
                                                                  : DType::kFloat32;

// Calls f with the arithmetic of a launch of that type.
template <DType kType, class F>
int with_arithmetic(const Launch& launch, F&& f) {
  if constexpr (kType == DType::kFloat16) return f(Float16{});
  if constexpr (kType == DType::kBFloat16) return f(BFloat16{});
  if constexpr (kType == DType::kFloat64) return f(Float64{});
  if constexpr (kType == DType::kFloat32) return launch.allow_tf32 ? f(TF32{}) : f(Float32{});
}

template <class A>
constexpr int kLaneElements = kLaneBytes / sizeof(Element<A>);
template <class A>
constexpr int kChunkElements = kChunkBytes / sizeof(Element<A>);

// Factors travel as 16 bytes in four registers, in the form the product wants: rounded, for TF32.
template <class A>
LSTM_FUSED_DEVICE Element<A> as_factor(Element<A> x) {
  if constexpr (std::is_same_v<A, TF32>) return bits_to_float(round_to_tf32(float_to_bits(x)));
  return x;
}

template <class A>
LSTM_FUSED_DEVICE Vector16 pack_factors(const Element<A> (&elements)[kLaneElements<A>]) {
  Vector16 packed;
  std::memcpy(&packed, elements, sizeof(packed));
  return packed;
}

template <class A>
LSTM_FUSED_DEVICE Vector16 load_factors_inline(const Element<A>* row, int64_t k, int64_t width) {
  Element<A> x[kLaneElements<A>];
#pragma unroll
  for (int e = 0; e < kLaneElements<A>; ++e) x[e] = k + e < width ? as_factor<A>(row[k + e]) : Element<A>{};
  return pack_factors<A>(x);
}

// Called once per weight, it would be most of a kernel's code. A call, however, takes registers.
template <class A>
LSTM_FUSED_DEVICE_CALL Vector16 load_factors_one_by_one(const Element<A>* row, int64_t k, int64_t width) {
  return load_factors_inline<A>(row, k, width);
}

template <class A>
LSTM_FUSED_DEVICE Vector16 as_factors(Vector16 packed) {
  if constexpr (std::is_same_v<A, TF32>) {
#pragma unroll
    for (uint32_t& word : packed.word) word = round_to_tf32(word);
  }
  return packed;
}

// Elements k, k + 1, ... of a row in global memory, zero past its width; one load where rows are `aligned`.
template <class A, bool kCalls = true>
LSTM_FUSED_DEVICE Vector16 load_factors(const Element<A>* row, int64_t k, int64_t width, bool aligned) {
  if (!aligned || k + kLaneElements<A> > width)
    return kCalls ? load_factors_one_by_one<A>(row, k, width) : load_factors_inline<A>(row, k, width);
  return as_factors<A>(*reinterpret_cast<const Vector16*>(row + k));
}

// Whether every row of a matrix begins at a multiple of 16 bytes.
template <class A>
LSTM_FUSED_DEVICE bool rows_are_aligned(const Element<A>* matrix, int64_t stride) {
  return (reinterpret_cast<uintptr_t>(matrix) | static_cast<uintptr_t>(stride * int64_t{sizeof(Element<A>)})) %
             kLaneBytes ==
         0;
}

// ---- the product

// kChains: sums of every tile, of every so many-th k each, so that fewer products wait for one another. finish() adds
// them up.
template <class A, int R, int kChains = 1, bool kTensorCore = A::kTensorCore>
class Product;

// On tensor cores two rows per lane make an M = 16 tile: the accumulators of row pair m are tile[...][m].
template <class A, int R, int kChains>
class Product<A, R, kChains, true> {
 public:
  using T = Element<A>;
  using Acc = float;

  LSTM_FUSED_DEVICE Product() {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain)
#pragma unroll
      for (int m = 0; m < R / 2; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) tile[chain][m][n] = 0;
  }

  // Adds one chunk. factor(n) is the lane's 16 bytes of row n of the batch tile. `chunk` chooses among the chains.
  template <class Factor>
  LSTM_FUSED_DEVICE void add(const Vector16 (&weights)[R], Factor&& factor, int chunk = 0) {
    const Vector16 h = factor(lane_group());
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const uint32_t b[2] = {h.word[2 * k], h.word[2 * k + 1]};
#pragma unroll
      for (int m = 0; m < R / 2; ++m) {
        const uint32_t a[4] = {weights[2 * m].word[2 * k], weights[2 * m + 1].word[2 * k],
                               weights[2 * m].word[2 * k + 1], weights[2 * m + 1].word[2 * k + 1]};
        A::mma(tile[(2 * chunk + k) % kChains][m], a, b);
      }
    }
  }

  // The sums of another part of K.
  LSTM_FUSED_DEVICE void add(const Product& other) {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain)
#pragma unroll
      for (int m = 0; m < R / 2; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) tile[chain][m][n] += other.tile[chain][m][n];
  }

  LSTM_FUSED_DEVICE void finish() {
#pragma unroll
    for (int half = kChains / 2; half > 0; half /= 2)
#pragma unroll
      for (int chain = 0; chain < half; ++chain)
#pragma unroll
        for (int m = 0; m < R / 2; ++m)
#pragma unroll
          for (int n = 0; n < 4; ++n) tile[chain][m][n] += tile[chain + half][m][n];
  }

  // After finish(): row r of the lane, column 2 pair + n.
  LSTM_FUSED_DEVICE Acc at(int r, int n) const { return tile[0][r / 2][r % 2 * 2 + n]; }

 private:
  static_assert((kChains & (kChains - 1)) == 0);
  float tile[kChains][R / 2][4];
};

// Elsewhere a lane sums its own k for all 8 columns; finish() adds up the four lanes of a row and deals the columns
// out.
template <class A, int R, int kChains>
class Product<A, R, kChains, false> {
 public:
  using T = Element<A>;
  using Acc = Accumulator<T>;

  LSTM_FUSED_DEVICE Product() {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int n = 0; n < kTileRows; ++n) sum[r][n] = 0;
  }

  template <class Factor>
  LSTM_FUSED_DEVICE void add(const Vector16 (&weights)[R], Factor&& factor, int = 0) {
#pragma unroll
    for (int n = 0; n < kTileRows; ++n) add_column(n, weights, factor(n));
  }
  LSTM_FUSED_DEVICE void add_column(int n, const Vector16 (&weights)[R], const Vector16& h) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int e = 0; e < kLaneElements<A>; ++e) sum[r][n] += element(weights[r], e) * element(h, e);
  }

  LSTM_FUSED_DEVICE void finish() {
    const int pair = lane_pair();
#pragma unroll
    for (int r = 0; r < R; ++r) {
      deal<4>(sum[r], 2, pair & 2);
      deal<2>(sum[r], 1, pair & 1);
    }
  }

  LSTM_FUSED_DEVICE Acc at(int r, int n) const { return sum[r][n]; }

 private:
  static LSTM_FUSED_DEVICE T element(const Vector16& packed, int e) {
    T x;
    std::memcpy(&x, &packed.word[e * sizeof(T) / sizeof(uint32_t)], sizeof(x));
    return x;
  }

  // Of 2 * half columns the lanes with `upper` keep the upper half, the others the lower one.
  template <int half>
  static LSTM_FUSED_DEVICE void deal(Acc (&columns)[kTileRows], int lane_mask, bool upper) {
#pragma unroll
    for (int n = 0; n < half; ++n) {
      const Acc kept = upper ? columns[n + half] : columns[n], given = upper ? columns[n] : columns[n + half];
      columns[n] = kept + shuffle_xor(given, lane_mask);
    }
  }

  Acc sum[R][kTileRows];
};

}  // namespace lstm_fused
