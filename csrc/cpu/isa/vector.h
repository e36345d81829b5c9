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
  static constexpr float kLimit = 87.0f;  // e^87 and e^-87 are normal numbers
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

// e^x - 1 with x clamped to +-kLimit; NaN stays NaN. x = k ln 2 + r with |r| <= ln(2)/2. Taylor's series of e^r - 1 up to
// r^kTerms leaves less than half an ulp, and 2^k (e^r - 1) + (2^k - 1) keeps the digits of a small x.
template <class T>
LSTM_FUSED_INLINE Vec<T> expm1(Vec<T> x) {
  using C = ExpConstants<T>;
  using Ints = typename Vector<T>::integers;
  const Vec<T> limit = Vec<T>{} + C::kLimit, rounding = Vec<T>{} + C::kRound;
  x = limit < x ? limit : x;
  x = -limit > x ? -limit : x;
  const Vec<T> shifted = x * T(1.442695040888963407) + rounding;
  const Vec<T> k = shifted - rounding;
  const Vec<T> r = (x - k * C::kLn2High) - k * C::kLn2Low;
  constexpr InverseFactorials<T> kInverse;
  Vec<T> series = Vec<T>{} + kInverse.of[C::kTerms];
#pragma GCC unroll 16
  for (int n = C::kTerms - 1; n >= 2; --n) series = series * r + kInverse.of[n];
  series = r + r * r * series;
  const Ints exponent = (Ints)shifted - (Ints)rounding;
  const Vec<T> power = (Vec<T>)((exponent + C::kBias) << C::kMantissa);
  return power * series + (power - 1);
}

template <class T>
struct VectorMath {
  static LSTM_FUSED_INLINE Vec<T> sigmoid(Vec<T> x) { return 1 / (2 + expm1<T>(-x)); }
  // From -2|x|, where e^x - 1 lies in (-1, 0]: nothing overflows and the result is odd to the bit.
  static LSTM_FUSED_INLINE Vec<T> tanh(Vec<T> x) {
    const Vec<T> t = expm1<T>(x < 0 ? 2 * x : -2 * x);
    const Vec<T> magnitude = t / (2 + t);
    return x < 0 ? magnitude : -magnitude;
  }
};

}  // namespace lstm_fused::LSTM_FUSED_ISA
