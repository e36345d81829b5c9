// Vectors of the instruction set this file is compiled for, in GCC's vector extensions, and their exp-like functions.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cell.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// A tile of a product is kTileRows x kTileVectors vectors of accumulators; beside them stand a row of W and one element
// of h, so that 31 of 32, 15 of 16 and 11 of 16 registers are used (without fused multiply-add a product needs its
// own). The cells of kCellRows rows are computed together: one alone waits for its own results half the time, and two
// need more registers than the narrower sets have.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 14, kCellRows = 2;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kTileRows = 6, kCellRows = 1;
#else
constexpr int kVectorBytes = 16, kTileRows = 4, kCellRows = 1;
#endif
constexpr int kTileVectors = 2;

// In one instruction, with one rounding.
#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kMultipliesAndAdds = true;
#else
constexpr bool kMultipliesAndAdds = false;
#endif

template <class T>
struct Integer;
template <>
struct Integer<float> {
  using type = int32_t;
};
template <>
struct Integer<double> {
  using type = int64_t;
};

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef typename Integer<T>::type integers __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename Vector<T>::type;
template <class T>
using Ints = typename Vector<T>::integers;
template <class T>
constexpr int kLanes = kVectorBytes / sizeof(T);

// Narrow types are computed in float: to load them is to widen them, which is exact.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
struct Int8 {
  int8_t value;
};
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
// As many as a vector has floats.
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));
typedef int8_t Bytes __attribute__((vector_size(kVectorBytes / 4)));

// The intrinsics, because GCC 12 widens its own vectors in two halves. (maskz: it calls the plain ones uninitialized.)
LSTM_FUSED_INLINE Ints<float> zero_extended(HalfBits bits) {
#if defined(__AVX512F__)
  return (Ints<float>)_mm512_maskz_cvtepu16_epi32(-1, (__m256i)bits);
#elif defined(__AVX2__)
  return (Ints<float>)_mm256_cvtepu16_epi32((__m128i)bits);
#else
  return __builtin_convertvector(bits, Ints<float>);
#endif
}

LSTM_FUSED_INLINE Vec<float> widened(HalfBits bits, BFloat16) { return (Vec<float>)(zero_extended(bits) << 16); }

LSTM_FUSED_INLINE Vec<float> widened(HalfBits bits, Float16) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(-1, (__m256i)bits);
#elif defined(__F16C__)
  return _mm256_cvtph_ps((__m128i)bits);
#else
  // Below 2^-14 a float16 is a multiple of 2^-24; its largest exponent, of infinity and NaN, is a float's largest too.
  constexpr int32_t kMoreBias = (127 - 15) << 23;
  const Ints<float> all = zero_extended(bits), magnitude = all & 0x7fff;
  const Ints<float> normal = (magnitude << 13) + kMoreBias + ((magnitude >= 0x7c00) & kMoreBias);
  const Ints<float> tiny = (Ints<float>)(__builtin_convertvector(magnitude, Vec<float>) * 0x1p-24f);
  return (Vec<float>)((magnitude < 0x400 ? tiny : normal) | (all & 0x8000) << 16);
#endif
}

LSTM_FUSED_INLINE Vec<float> widened(Bytes bytes, Int8) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtepi32_ps(-1, _mm512_maskz_cvtepi8_epi32(-1, (__m128i)bytes));
#elif defined(__AVX2__)
  const __m128i low = _mm_cvtsi64_si128((int64_t)bytes);
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
#else
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints<float>), Vec<float>);
#endif
}

// The low half of each lane.
LSTM_FUSED_INLINE HalfBits low_halves(Ints<float> v) {
#if defined(__AVX512F__)
  return (HalfBits)_mm512_maskz_cvtepi32_epi16(-1, (__m512i)v);
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)(v & 0xffff), _mm256_setzero_si256());
  return (HalfBits)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0b1000));
#else
  return __builtin_convertvector(v, HalfBits);
#endif
}

// To the nearest, ties to even; what is no number stays none.
LSTM_FUSED_INLINE HalfBits narrowed(Vec<float> v, BFloat16) {
  const Ints<float> bits = (Ints<float>)v, rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return low_halves((v == v ? rounded : bits | 0x400000) >> 16);
}

LSTM_FUSED_INLINE HalfBits narrowed(Vec<float> v, Float16) {
#if defined(__AVX512F__)
  return (HalfBits)_mm512_maskz_cvtps_ph(-1, v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (HalfBits)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#else
  // Below 2^-14 the result counts in 2^-24, to which adding 0.5 rounds; from 65520 on it is infinite.
  const Ints<float> bits = (Ints<float>)v, magnitude = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
  const Ints<float> tiny = (Ints<float>)((Vec<float>)magnitude + 0.5f) - 0x3f000000;
  const Ints<float> normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - ((127 - 15) << 23)) >> 13;
  const Ints<float> finite = magnitude < (127 - 14) << 23 ? tiny : normal;
  const Ints<float> large = magnitude > 0x7f800000 ? Ints<float>{} + 0x7e00 : Ints<float>{} + 0x7c00;
  return low_halves((magnitude >= 0x477ff000 ? large : finite) | sign);
#endif
}

template <class T>
LSTM_FUSED_INLINE Vec<Wide<T>> load(const T* p) {
  std::conditional_t<std::is_same_v<T, Wide<T>>, Vec<Wide<T>>,
                     std::conditional_t<std::is_same_v<T, Int8>, Bytes, HalfBits>>
      v;
  std::memcpy(&v, p, sizeof(v));
  if constexpr (std::is_same_v<T, Wide<T>>)
    return v;
  else
    return widened(v, T());
}

template <class T>
LSTM_FUSED_INLINE void store(T* p, Vec<Wide<T>> v) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    std::memcpy(p, &v, sizeof(v));
  } else {
    const HalfBits bits = narrowed(v, T());
    std::memcpy(p, &bits, sizeof(bits));
  }
}

// The first n lanes, for the last vector of a row whose width is no multiple of the lanes; the others read as zero.
template <class T>
LSTM_FUSED_INLINE Vec<Wide<T>> load(const T* p, int n) {
  if (n == kLanes<Wide<T>>) return load(p);
  if constexpr (std::is_same_v<T, Wide<T>>) {
    Vec<T> v = {};
    for (int lane = 0; lane < n; ++lane) v[lane] = p[lane];
    return v;
  } else {
    HalfBits bits = {};
    for (int lane = 0; lane < n; ++lane) bits[lane] = p[lane].bits;
    return widened(bits, T());
  }
}

template <class T>
LSTM_FUSED_INLINE void store(T* p, Vec<Wide<T>> v, int n) {
  if (n == kLanes<Wide<T>>) return store(p, v);
  if constexpr (std::is_same_v<T, Wide<T>>) {
    for (int lane = 0; lane < n; ++lane) p[lane] = v[lane];
  } else {
    const HalfBits bits = narrowed(v, T());
    for (int lane = 0; lane < n; ++lane) p[lane].bits = bits[lane];
  }
}

// Lane J of the result is lane Place::at(J) of a and b, one behind the other; clang and GCC spell that differently.
template <class Place, class T, int... J>
LSTM_FUSED_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b, std::integer_sequence<int, J...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Place::at(J)...);
#else
  return __builtin_shuffle(a, b, Ints<T>{Place::at(J)...});
#endif
}
template <class Place, class T>
LSTM_FUSED_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b) {
  return shuffle<Place, T>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// N vectors as one: what is computed from them is N chains of instructions that do not wait for each other. (A vector
// type of N times the width would do, but without AVX-512 GCC keeps those in memory.)
template <class T, int N>
struct Vectors {
  Vec<T> at[N];

  Vectors() = default;
  LSTM_FUSED_INLINE Vectors(Vec<T> v) : Vectors(each([&](int) { return v; })) {}
  LSTM_FUSED_INLINE Vectors(T value) : Vectors(Vec<T>{} + value) {}

  // f(n) for each of them.
  template <class F>
  static LSTM_FUSED_INLINE Vectors each(F&& f) {
    Vectors result;
    for (int n = 0; n < N; ++n) result.at[n] = f(n);
    return result;
  }
  friend LSTM_FUSED_INLINE Vectors operator+(const Vectors& a, const Vectors& b) {
    return each([&](int n) { return a.at[n] + b.at[n]; });
  }
  friend LSTM_FUSED_INLINE Vectors operator-(const Vectors& a, const Vectors& b) {
    return each([&](int n) { return a.at[n] - b.at[n]; });
  }
  friend LSTM_FUSED_INLINE Vectors operator*(const Vectors& a, const Vectors& b) {
    return each([&](int n) { return a.at[n] * b.at[n]; });
  }
};

// The larger of the two, and NaN where x is NaN. (maskz: GCC 12 calls the plain intrinsics uninitialized.)
#if defined(__AVX512F__)
LSTM_FUSED_INLINE Vec<float> larger(Vec<float> limit, Vec<float> x) { return _mm512_maskz_max_ps(-1, limit, x); }
LSTM_FUSED_INLINE Vec<double> larger(Vec<double> limit, Vec<double> x) { return _mm512_maskz_max_pd(-1, limit, x); }
#elif defined(__AVX2__)
LSTM_FUSED_INLINE Vec<float> larger(Vec<float> limit, Vec<float> x) { return _mm256_max_ps(limit, x); }
LSTM_FUSED_INLINE Vec<double> larger(Vec<double> limit, Vec<double> x) { return _mm256_max_pd(limit, x); }
#else
template <class V>
LSTM_FUSED_INLINE V larger(V limit, V x) {
  return limit > x ? limit : x;
}
#endif

// 1 / x, to 14 bits at least. The instruction takes 4 cycles, a division of 16 floats 16.
template <class T>
LSTM_FUSED_INLINE Vec<T> reciprocal_estimate(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) return _mm512_maskz_rcp14_ps(-1, x);
#endif
  return 1 / x;
}

// kSeries: e^r = 1 + r + r^2 (kSeries[0] + kSeries[1] r + ...), |r| <= ln(2) / 2.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr float kLimit = 88.0f;        // e^88 < 2^127
  static constexpr int kMantissa = 23;
  // The polynomial whose largest relative error is smallest, 3.1e-9, found by linear programming on 4000 points;
  // Taylor's needs a term more.
  static constexpr float kSeries[] = {0.49999993f, 0.1666652f, 0.04166839f, 0.00836878f, 0.00138145f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLimit = 709.0;
  static constexpr int kMantissa = 52;
  // Taylor's, which leaves less than half an ulp.
  static constexpr double kSeries[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                       1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                       1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

template <class T, int N>
struct VectorMath {
  using V = Vectors<T, N>;
  using C = ExpConstants<T>;

  // 1 / (1 + e^-x). The correction has the rest of 1 after q (1 + e), without the rounding of that sum. Where e^-x
  // would overflow a gate is shut: what it is multiplied by may be as large as a float gets.
  static LSTM_FUSED_INLINE V sigmoid(const V& x) {
    const Vec<T> least = Vec<T>{} - C::kLimit;
    const Exp a = exp(V::each([&](int n) { return larger(least, -larger(least, x.at[n])); }));
    const V e = a.power + a.rest, q = reciprocal(1 + e);
    const V open = q + q * ((1 - q) - q * e);
    return V::each([&](int n) { return x.at[n] < least ? Vec<T>{} : open.at[n]; });
  }

  // (1 - e) / (1 + e), e = e^-2|x|, with the sign of x: nothing overflows and the result is odd to the bit. Numerator
  // and denominator are corrected as above: low - rest and high + rest before their rounding.
  static LSTM_FUSED_INLINE V tanh(const V& x) {
    const Vec<T> least = Vec<T>{} - C::kLimit;
    const Ints<T> sign_bit = (Ints<T>)(-Vec<T>{});
    const Exp a = exp(V::each([&](int n) { return larger(least, 2 * (Vec<T>)((Ints<T>)x.at[n] | sign_bit)); }));
    const V low = 1 - a.power, high = 1 + a.power;
    const V estimate = reciprocal(high + a.rest), q = (low - a.rest) * estimate;
    const V positive = q + estimate * ((low - q * high) - a.rest * (1 + q));
    return V::each([&](int n) { return (Vec<T>)((Ints<T>)positive.at[n] | ((Ints<T>)x.at[n] & sign_bit)); });
  }

 private:
  struct Exp {
    V power, rest;
  };

  static LSTM_FUSED_INLINE V reciprocal(const V& x) {
    return V::each([&](int n) { return reciprocal_estimate<T>(x.at[n]); });
  }

  // e^x = power + rest for |x| <= kLimit; power = 2^k for x = k ln 2 + r, and rest, power (e^r - 1), loses nothing
  // where it is small.
  static LSTM_FUSED_INLINE Exp exp(const V& x) {
    const V shifted = x * T(1.442695040888963407) + C::kRound, k = shifted - C::kRound;
    const V r = x - k * T(0.693147180559945309);
    constexpr int kTerms = sizeof(C::kSeries) / sizeof(T);
    V series = C::kSeries[kTerms - 1];
#pragma GCC unroll 16
    for (int n = kTerms - 2; n >= 0; --n) series = series * r + C::kSeries[n];
    // The low bits of `shifted` are k; the shift drops those of the constant, and 1 has the exponent's bias.
    const Ints<T> one = (Ints<T>)(Vec<T>{} + 1);
    const V power = V::each([&](int n) { return (Vec<T>)(((Ints<T>)shifted.at[n] << C::kMantissa) + one); });
    return {power, power * (r + r * r * series)};
  }
};

}  // namespace lstm_fused::LSTM_FUSED_ISA
