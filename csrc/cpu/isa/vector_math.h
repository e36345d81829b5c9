// sigmoid and tanh of vectors, several at a time.
#pragma once

#include "cpu/isa/pairs.h"

namespace lstm_fused::LSTM_FUSED_ISA {

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
#elif LSTM_FUSED_NEON
LSTM_FUSED_INLINE Vec<float> larger(Vec<float> limit, Vec<float> x) {
  return (Vec<float>)vmaxq_f32((float32x4_t)limit, (float32x4_t)x);
}
LSTM_FUSED_INLINE Vec<double> larger(Vec<double> limit, Vec<double> x) {
  return (Vec<double>)vmaxq_f64((float64x2_t)limit, (float64x2_t)x);
}
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
#elif LSTM_FUSED_NEON
  if constexpr (sizeof(T) == sizeof(float)) {  // 8 bits, and twice as many after a step of Newton's
    const float32x4_t v = (float32x4_t)x, estimate = vrecpeq_f32(v);
    return (Vec<T>)(estimate * vrecpsq_f32(v, estimate));
  }
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

#if LSTM_FUSED_PAIRS
// To 14 bits, in half the instructions: for gates and h that are rounded to the 8 of bfloat16. Powers of 2 beyond the
// exponents of float become 0 and infinity by themselves.
template <int N>
struct RoundedMath {
  using V = Vectors<float, N>;
  static constexpr float kLog2E = 1.442695040888963407f;

  // Of t = k + r, 0 <= r < 1; an infinite t has r = 0.
  static LSTM_FUSED_INLINE V sigmoid(const V& x) {
    const V t = x * -kLog2E;
    const V r = V::each([&](int n) { return _mm512_maskz_reduce_ps(-1, t.at[n], _MM_FROUND_TO_NEG_INF); });
    const V series = 1 + r * (0.69304484f + r * (0.24128021f + r * (0.05224247f + r * 0.01342669f)));
    const V e = V::each([&](int n) { return _mm512_maskz_scalef_ps(-1, series.at[n], t.at[n]); });
    return V::each([&](int n) { return reciprocal_estimate<float>(1 + e.at[n]); });
  }

  // As VectorMath's, without its corrections: |r| <= 1/2, so that 1 - e is exact to 14 bits where it is small.
  static LSTM_FUSED_INLINE V tanh(const V& x) {
    const Ints<float> sign_bit = (Ints<float>)(-Vec<float>{});
    const V t = V::each([&](int n) { return (Vec<float>)((Ints<float>)x.at[n] | sign_bit); }) * (2 * kLog2E);
    const V r = V::each([&](int n) { return _mm512_maskz_reduce_ps(-1, t.at[n], _MM_FROUND_TO_NEAREST_INT); });
    const V series = r * (0.69313686f + r * (0.24023252f + r * (0.05583729f + r * 0.00961811f)));
    return V::each([&](int n) {
      const Vec<float> k = _mm512_maskz_roundscale_ps(-1, t.at[n], _MM_FROUND_TO_NEAREST_INT);
      const Vec<float> power = _mm512_maskz_scalef_ps(-1, Vec<float>{} + 1, k), rest = power * series.at[n];
      const Vec<float> positive = ((1 - power) - rest) * reciprocal_estimate<float>((1 + power) + rest);
      return (Vec<float>)((Ints<float>)positive | ((Ints<float>)x.at[n] & sign_bit));
    });
  }
};

template <class T, int N>
using CellMath = RoundedMath<N>;
#else
template <class T, int N>
using CellMath = VectorMath<T, N>;
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
