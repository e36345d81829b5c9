// Products of bytes with bytes, four of them and their sum in an instruction (AVX512-VNNI) or in four (AVX2): weights
// of 8 bit by rows that are rounded to 8 bit, each row with a factor of its own. Sums are exact, and so the same in
// both. How a row is stored is ByteRow's, and a row has 8 + 2 K bytes, K in whole vectors.
#pragma once

#include "cpu/isa/product.h"
#include "cpu/isa/vector_math.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// As which such weights are stored.
struct ByteProducts {
  int8_t of_a_lane[4];  // weights of four k's; of a panel's first row, an int32: -128 times their sum over all k
};
constexpr int64_t kBytesTogether = 4;
constexpr float kLeastRow = 1e-35f;  // rows of smaller numbers count as zero: 127 divided by one might not be finite

#if defined(__AVX512F__)
// Rows of bytes u that stand for u - 128 (product.h's multiply, of these weights). A fetched row is kPanelWidth<E>
// elements, as kFarRows counts them: four of this panel's.
template <class E, int R, int V, int fetched_rows>
__attribute__((target("avx512vnni"))) inline Accumulators<float, R, V> multiply(
    const uint8_t* const* rows, int64_t terms, const ByteProducts* panel, int64_t /*panel_stride*/, int64_t next_panel,
    int64_t /*chain*/, Spread* = nullptr) {
  // Unrolled early, and not of __m512i: else GCC keeps the sums in memory, and takes up to 2.4 times as long.
  Ints<float> acc[R][V];
  const ByteProducts* at[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    at[v] = panel + v / kTileVectors * next_panel + v % kTileVectors * kLanes<float>;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][v] = (Ints<float>)_mm512_loadu_si512(at[v]);
  }
  for (int64_t k = 0; k < terms; k += kBytesTogether) {
    __m512i w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      at[v] += kPanelWidth<float>;
      if constexpr (fetched_rows > 0) __builtin_prefetch(at[v] + fetched_rows * kPanelWidth<E>);
      w[v] = _mm512_loadu_si512(at[v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t four;
      std::memcpy(&four, rows[r] + k, sizeof(four));
      const __m512i a = _mm512_set1_epi32(four);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = (Ints<float>)_mm512_dpbusd_epi32((__m512i)acc[r][v], a, w[v]);
    }
  }
  Accumulators<float, R, V> result;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) result.at[r][v] = _mm512_maskz_cvtepi32_ps(-1, (__m512i)acc[r][v]);
  return result;
}

struct ByteRow {
  uint8_t* const to;

  // Lanes of x from 0 on, rounded, are elements k ... .
  LSTM_FUSED_INLINE void store(int64_t k, Vec<float> x, int lanes) {
    const __m512i whole = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(-1, x), _mm512_set1_epi32(128));
    _mm_mask_storeu_epi8(to + k, (1u << lanes) - 1, _mm512_maskz_cvtepi32_epi8(-1, whole));
  }
  LSTM_FUSED_INLINE void finish() const {}
};
#elif defined(__AVX2__)
// An int32, and behind it of four k's at a time their magnitudes and masks of those below zero, 0 or -1. |x| (w ^ mask)
// is w x, or less by |x| where x < 0: the int32 is the sum of those. (A core does XOR beside its multiplications, but
// vpsignb in their place: Zen 3 multiplies 70 bytes in a ns with that, 83 with XOR.)
struct ByteRow {
  static constexpr int64_t kBegin = 8;
  uint8_t* const to;
  int32_t below_zero = 0;

  LSTM_FUSED_INLINE void store(int64_t k, Vec<float> x, int /*lanes*/) {
    const __m256i whole = _mm256_cvtps_epi32(x);
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    const __m128i bytes = _mm_packs_epi16(halves, halves), zero = _mm_setzero_si128();
    const __m128i magnitude = _mm_abs_epi8(bytes), mask = _mm_cmpgt_epi8(zero, bytes);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + kBegin + 2 * k), _mm_unpacklo_epi32(magnitude, mask));
    below_zero += _mm_cvtsi128_si32(_mm_sad_epu8(_mm_and_si128(magnitude, mask), zero));
  }
  LSTM_FUSED_INLINE void finish() const { std::memcpy(to, &below_zero, sizeof(below_zero)); }
};

// Four bytes, in all lanes.
LSTM_FUSED_INLINE __m256i four_bytes(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}

// Two products fit 16 bits, as no weight is below -127 and no magnitude above 127. What a panel begins with is for rows
// that are shifted.
template <class E, int R, int V, int fetched_rows>
inline Accumulators<float, R, V> multiply(const uint8_t* const* rows, int64_t terms, const ByteProducts* panel,
                                          int64_t /*panel_stride*/, int64_t next_panel, int64_t /*chain*/,
                                          Spread* = nullptr) {
  const __m256i ones = _mm256_set1_epi16(1);
  Ints<float> acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = (Ints<float>)four_bytes(rows[r]);
  for (int64_t k = 0; k < terms; k += kBytesTogether) {
    panel += kPanelWidth<float>;
    const auto weights = [&](int v) __attribute__((always_inline)) {
      const ByteProducts* const place = panel + v / kTileVectors * next_panel + v % kTileVectors * kLanes<float>;
      if (fetched_rows > 0 && v % kTileVectors == 0) __builtin_prefetch(place + fetched_rows * kPanelWidth<E>);
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(place));
    };
    const auto magnitude = [&](int r) { return four_bytes(rows[r] + ByteRow::kBegin + 2 * k); };
    const auto mask = [&](int r) { return four_bytes(rows[r] + ByteRow::kBegin + 2 * k + kBytesTogether); };
    const auto add = [&](int r, int v, __m256i x, __m256i w) __attribute__((always_inline)) {
      acc[r][v] += (Ints<float>)_mm256_madd_epi16(_mm256_maddubs_epi16(x, w), ones);
    };
    if constexpr (R < V) {
      __m256i x[R], below_zero[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        x[r] = magnitude(r);
        below_zero[r] = mask(r);
      }
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const __m256i w = weights(v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) add(r, v, x[r], _mm256_xor_si256(w, below_zero[r]));
      }
    } else {
      __m256i w[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) w[v] = weights(v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const __m256i x = magnitude(r), below_zero = mask(r);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) add(r, v, x, _mm256_xor_si256(w[v], below_zero));
      }
    }
  }
  Accumulators<float, R, V> result;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) result.at[r][v] = _mm256_cvtepi32_ps((__m256i)acc[r][v]);
  return result;
}
#endif

#if defined(__AVX2__)
// The factor of the row: its largest element is 127 times it; NaN if there is a number in it that is not finite.
inline float quantize(const float* row, int64_t size, uint8_t* to) {
  Vec<float> largest = {}, poison = {};
  for (int64_t k = 0; k < size; k += kLanes<float>) {
    const Vec<float> x = load(row + k, valid_lanes<float>(k, size));
    largest = larger(largest, (Vec<float>)((Ints<float>)x & 0x7fffffff));
    poison += x * 0;
  }
  float most = 0, nothing = 0;
  for (int lane = 0; lane < kLanes<float>; ++lane) {
    most = largest[lane] > most ? largest[lane] : most;
    nothing += poison[lane];
  }
  if (most < kLeastRow) most = 0;
  const float per_step = most > 0 ? 127 / most : 0;
  ByteRow bytes{to};
  for (int64_t k = 0; k < size; k += kLanes<float>) {
    const int lanes = valid_lanes<float>(k, size);
    bytes.store(k, load(row + k, lanes) * per_step, lanes);
  }
  bytes.finish();
  return most / 127 + nothing;
}
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
