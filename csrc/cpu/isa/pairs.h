// Pairs of bfloat16, and what else a product may multiply.
#pragma once

#include "cpu/isa/vector.h"

// A set that adds pairs to a narrower one: it is compiled for float alone, in the kernels of bfloat16 stacks that
// multiply them, and has all others of that set.
#if defined(__AVX512BF16__)
#define LSTM_FUSED_PAIRS 1
#else
#define LSTM_FUSED_PAIRS 0
#endif

namespace lstm_fused::LSTM_FUSED_ISA {

// Two neighbouring terms of a row of bfloat16, as one element of what a product adds up: two terms at a time.
struct Pair {
  BFloat16 first, second;
};
constexpr bool kMultipliesPairs = LSTM_FUSED_PAIRS;
template <class T>
constexpr int kTerms = std::is_same_v<T, Pair> ? 2 : 1;
// What products of T multiply.
template <class T>
using Operand = std::conditional_t<kMultipliesPairs && std::is_same_v<T, float>, Pair, T>;

// What a kernel stores h, and what backward needs, as.
template <class T>
using Kept = std::conditional_t<kMultipliesPairs && std::is_same_v<T, float>, BFloat16, T>;

// A sum of products, as it stays. Of pairs denormal numbers are zero here, too.
template <class Y>
LSTM_FUSED_INLINE void store_sum(Y* y, Vec<Wide<Y>> sum, int lanes) {
  store(y, sum, lanes);
}

#if LSTM_FUSED_PAIRS
LSTM_FUSED_INLINE void store_sum(BFloat16* y, Vec<float> sum, int lanes) {
  _mm256_mask_storeu_epi16(y, (1u << lanes) - 1, (__m256i)_mm512_cvtneps_pbh(sum));
}

// Of pairs, whose vectors have the type of sums, too: one rounding for each term; denormal numbers are zero.
LSTM_FUSED_INLINE Vec<float> multiply_add(Pair a, Vec<float> w, Vec<float> sum) {
  int bits;
  std::memcpy(&bits, &a, sizeof(bits));
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(bits), (__m512bh)w);
}

LSTM_FUSED_INLINE Vec<float> load(const Pair* p) { return load(reinterpret_cast<const float*>(p)); }

// Pairs of the first terms at p, as many as there are and fit a vector; zero past them.
LSTM_FUSED_INLINE Vec<float> load_pairs(const BFloat16* p, int64_t terms) {
  return (Vec<float>)_mm512_maskz_loadu_epi16(terms < 2 * kLanes<Pair> ? (1u << terms) - 1 : ~0u, p);
}
LSTM_FUSED_INLINE Vec<float> load_pairs(const float* p, int64_t terms) {
  const auto mask = [terms](int first) -> __mmask16 {
    return terms >= first + 16 ? 0xffff : terms <= first ? 0 : (1u << (terms - first)) - 1;
  };
  return (Vec<float>)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(mask(16), p + 16), _mm512_maskz_loadu_ps(mask(0), p));
}

// Lane by lane, a first.
LSTM_FUSED_INLINE Vec<float> pairs_of(Vec<float> a, Vec<float> b) {
  const auto rounded = [](Vec<float> v) { return zero_extended((HalfBits)_mm512_cvtneps_pbh(v)); };
  return (Vec<float>)(rounded(a) | rounded(b) << 16);
}

// Of the first `valid` elements at a and b, zero past them and where there is none.
template <class T>
LSTM_FUSED_INLINE Vec<float> pairs_of(const T* a, const T* b, int valid) {
  const __mmask16 mask = (1u << valid) - 1, mask_of_b = b == nullptr ? 0 : mask;
  if constexpr (std::is_same_v<T, float>) {
    return pairs_of(_mm512_maskz_loadu_ps(mask, a), _mm512_maskz_loadu_ps(mask_of_b, b));
  } else {
    const auto bits = [](__mmask16 m, const T* p) { return zero_extended((HalfBits)_mm256_maskz_loadu_epi16(m, p)); };
    return (Vec<float>)(bits(mask, a) | bits(mask_of_b, b) << 16);
  }
}
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
