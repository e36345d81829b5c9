// Products of bytes with bytes, four of them and their sum in an instruction (AVX512-VNNI): weights of 8 bit by rows
// that are rounded to 8 bit, each row with a factor of its own. Sums are exact.
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
__attribute__((target("avx512vnni"))) inline Accumulators<float, R, V> multiply(const uint8_t* const* rows,
                                                                                int64_t terms,
                                                                                const ByteProducts* panel,
                                                                                int64_t /*panel_stride*/,
                                                                                int64_t next_panel, int64_t /*chain*/) {
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
  for (int64_t k = 0; k < size; k += kLanes<float>) {
    const int lanes = valid_lanes<float>(k, size);
    const __m512i whole = _mm512_maskz_cvtps_epi32(-1, load(row + k, lanes) * per_step);
    _mm_mask_storeu_epi8(to + k, (1u << lanes) - 1,
                         _mm512_maskz_cvtepi32_epi8(-1, _mm512_add_epi32(whole, _mm512_set1_epi32(128))));
  }
  return most / 127 + nothing;
}
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
