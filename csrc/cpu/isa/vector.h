// Vectors of the instruction set this file is compiled for, in GCC's vector extensions, and their exp-like functions.
#pragma once

#include <cstdint>
#include <cstring>

#include "cell.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// A tile of a product is kTileRows x kTileVectors vectors of accumulators; beside them stand a row of W and one element
// of h, so that 31 of 32, 15 of 16 and 11 of 16 registers are used (without fused multiply-add a product needs its
// own).
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 14;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kTileRows = 6;
#else
constexpr int kVectorBytes = 16, kTileRows = 4;
#endif
constexpr int kTileVectors = 2;

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
constexpr int kLanes = kVectorBytes / sizeof(T);

template <class T>
LSTM_FUSED_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
LSTM_FUSED_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

// The first n lanes, for the last vector of a row whose width is no multiple of the lanes; the others read as zero.
template <class T>
LSTM_FUSED_INLINE Vec<T> load(const T* p, int n) {
  if (n == kLanes<T>) return load(p);
  Vec<T> v = {};
  for (int lane = 0; lane < n; ++lane) v[lane] = p[lane];
  return v;
}

template <class T>
LSTM_FUSED_INLINE void store(T* p, Vec<T> v, int n) {
  if (n == kLanes<T>) return store(p, v);
  for (int lane = 0; lane < n; ++lane) p[lane] = v[lane];
}

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // k * high is exact
  static constexpr float kLimit = 88.0f;                                      // e^88 < 2^127
  static constexpr int kMantissa = 23, kTerms = 7;
};
template <>
struct ExpConstants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLimit = 709.0;
  static constexpr int kMantissa = 52, kTerms = 13;
};

template <class T>
struct InverseFactorials {
  T of[ExpConstants<T>::kTerms + 1];
  constexpr InverseFactorials() : of() {
    of[0] = 1;
    for (int n = 1; n <= ExpConstants<T>::kTerms; ++n) of[n] = of[n - 1] / n;
  }
};

// A number as a rounded sum and what its rounding lost.
template <class T>
struct Sum {
  Vec<T> rounded, lost;
};

// e^x = power + power * series, with x clamped to +-kLimit; NaN stays NaN. x = k ln 2 + r with |r| <= ln(2)/2, power =
// 2^k, and series is Taylor's for e^r - 1, up to r^kTerms, which leaves less than half an ulp.
template <class T>
struct Exp {
  Vec<T> power, series;

  // e^x + constant; power * series is exact.
  LSTM_FUSED_INLINE Sum<T> plus(T constant) const {
    const Vec<T> whole = power + constant, rounded = power * series + whole;
    return {rounded, power * series + (whole - rounded)};
  }
};

template <class T>
LSTM_FUSED_INLINE Exp<T> exp(Vec<T> x) {
  using C = ExpConstants<T>;
  using Ints = typename Vector<T>::integers;
  const Vec<T> limit = Vec<T>{} + C::kLimit, rounding = Vec<T>{} + C::kRound;
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  const Vec<T> shifted = x * T(1.442695040888963407) + rounding;
  const Vec<T> k = shifted - rounding;
  const Vec<T> r = (x - k * C::kLn2High) - k * C::kLn2Low;
  constexpr InverseFactorials<T> kInverse;
  Vec<T> series = Vec<T>{} + kInverse.of[C::kTerms];
#pragma GCC unroll 16
  for (int n = C::kTerms - 1; n >= 2; --n) series = series * r + kInverse.of[n];
  // The low bits of `shifted` are k; the shift drops those of the constant, and 1 has the exponent's bias.
  const Ints exponent = (Ints)shifted << C::kMantissa;
  return {(Vec<T>)(exponent + (Ints)(Vec<T>{} + 1)), r + r * r * series};
}

// 1 / x, to 14 bits at least. The instruction takes 4 cycles, a division of 16 floats 16.
template <class T>
LSTM_FUSED_INLINE Vec<T> reciprocal_estimate(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) return __builtin_ia32_rcp14ps512_mask(x, Vec<T>{}, -1);
#endif
  return 1 / x;
}

// n / d, corrected by its remainder, which a fused multiply-add gives exactly: close to half an ulp, as the libraries
// that torch calls are, and twice as many right bits as the estimate has.
template <class T>
LSTM_FUSED_INLINE Vec<T> quotient(const Sum<T>& n, const Sum<T>& d) {
#if defined(__FMA__)
  const Vec<T> estimate = reciprocal_estimate<T>(d.rounded), q = n.rounded * estimate;
  return q + estimate * ((n.rounded - q * d.rounded) - q * d.lost + n.lost);
#else
  return n.rounded / d.rounded;
#endif
}

template <class T>
struct VectorMath {
  static LSTM_FUSED_INLINE Vec<T> sigmoid(Vec<T> x) {
    return quotient<T>({Vec<T>{} + 1, Vec<T>{}}, exp<T>(-x).plus(1));
  }
  // (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x: nothing overflows and the result is odd to the bit.
  static LSTM_FUSED_INLINE Vec<T> tanh(Vec<T> x) {
    using Ints = typename Vector<T>::integers;
    const Ints sign_bit = (Ints)(-Vec<T>{}), sign = (Ints)x & sign_bit;
    const Exp<T> e = exp<T>(2 * (Vec<T>)((Ints)x | sign_bit));
    const Vec<T> negative = quotient<T>(e.plus(-1), e.plus(1));
    return (Vec<T>)((Ints)negative ^ (sign ^ sign_bit));
  }
};

}  // namespace lstm_fused::LSTM_FUSED_ISA
