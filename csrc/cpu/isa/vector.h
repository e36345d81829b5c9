// Vectors of the instruction set this file is compiled for, in GCC's vector extensions, and their exp-like functions.
#pragma once

#include <cstdint>
#include <cstring>

#include "cell.h"

namespace lstm_fused::LSTM_FUSED_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 6;  // 6 x 4 accumulators, 4 of W, 1 of h: 29 of 32 registers
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 3;  // 3 x 4 accumulators, 1 of W, 3 of h: 16 of 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 2;  // without fused multiply-add a temporary is needed
#endif
constexpr int kTileVectors = 4;  // a forward tile holds the four gates of one vector of units

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
  static constexpr float kLimit = 88.0f;  // e^88 < 2^127
  static constexpr int kMantissa = 23, kBias = 127, kTerms = 7;
};
template <>
struct ExpConstants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLimit = 709.0;
  static constexpr int kMantissa = 52, kBias = 1023, kTerms = 13;
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

// e^x = power + power * series, with x clamped to +-kLimit; NaN stays NaN. x = k ln 2 + r with |r| <= ln(2)/2, power = 2^k,
// and series is Taylor's for e^r - 1, up to r^kTerms, which leaves less than half an ulp.
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
  const Ints exponent = (Ints)shifted - (Ints)rounding;
  return {(Vec<T>)((exponent + C::kBias) << C::kMantissa), r + r * r * series};
}

// n / d, corrected by its remainder where a fused multiply-add gives that exactly: close to half an ulp, as the libraries
// that torch calls are.
template <class T>
LSTM_FUSED_INLINE Vec<T> quotient(const Sum<T>& n, const Sum<T>& d) {
#if defined(__FMA__)
  const Vec<T> inverse = 1 / d.rounded, q = n.rounded * inverse;
  return q + inverse * ((n.rounded - q * d.rounded) + (n.lost - q * d.lost));
#else
  return n.rounded / d.rounded;
#endif
}

template <class T>
struct VectorMath {
  static LSTM_FUSED_INLINE Vec<T> sigmoid(Vec<T> x) {
    return quotient<T>({Vec<T>{} + 1, Vec<T>{}}, exp<T>(-x).plus(1));
  }
  // (1 - e^-2|x|) / (1 + e^-2|x|): nothing overflows and the result is odd to the bit.
  static LSTM_FUSED_INLINE Vec<T> tanh(Vec<T> x) {
    const Exp<T> e = exp<T>(x < 0 ? 2 * x : -2 * x);
    const Vec<T> magnitude = quotient<T>(e.plus(-1), e.plus(1));
    return x < 0 ? magnitude : -magnitude;
  }
};

}  // namespace lstm_fused::LSTM_FUSED_ISA
