// Vectors of the instruction set this file is compiled for, in GCC's vector extensions.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Every 64-bit Arm has it. (-U__ARM_NEON: the code of other machines, to compare with.)
#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define LSTM_FUSED_NEON 1
#else
#define LSTM_FUSED_NEON 0
#endif

#include "cell.h"

namespace lstm_fused::LSTM_FUSED_ISA {

// A tile of a product is kTileRows x kTileVectors vectors of accumulators; beside them stand a row of W and one element
// of h, so that 31 of 32, 15 of 16 and 11 of 16 registers are used (without fused multiply-add a product needs its
// own). NEON multiplies by a lane of a vector: beside its 20 accumulators stand four elements of each of 10 rows, and
// two vectors of W. A tile of few rows has kWideVectors, so that it reads whole lines of a matrix, several in a row,
// and has enough sums to hide the latency of one. The cells of kCellRows rows are computed together: one alone waits
// for its own results half the time, and two need more registers than AVX2 has. To the bits of bfloat16 they take
// fewer.
#if defined(__AVX512BF16__)
constexpr int kVectorBytes = 64, kTileRows = 14, kWideVectors = 8, kCellRows = 4;
#elif defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 14, kWideVectors = 8, kCellRows = 2;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kTileRows = 6, kWideVectors = 4, kCellRows = 1;
#elif LSTM_FUSED_NEON
constexpr int kVectorBytes = 16, kTileRows = 10, kWideVectors = 8, kCellRows = 2;
#else
constexpr int kVectorBytes = 16, kTileRows = 4, kWideVectors = 2, kCellRows = 1;
#endif
constexpr int kTileVectors = 2;

// In one instruction, with one rounding.
#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kMultipliesAndAdds = true;
#else
constexpr bool kMultipliesAndAdds = false;
#endif

// A vector by a lane of another one.
constexpr bool kMultipliesByLane = LSTM_FUSED_NEON;

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

// sum + a w, of vectors or of one number and a vector. Left to itself the compiler fuses the two in one tile and not in
// another, as the code around them has it, and an element's bits would depend on its neighbours.
#if defined(__AVX512F__)
LSTM_FUSED_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> w, Vec<float> sum) {
  return _mm512_fmadd_ps(a, w, sum);
}
LSTM_FUSED_INLINE Vec<double> multiply_add(Vec<double> a, Vec<double> w, Vec<double> sum) {
  return _mm512_fmadd_pd(a, w, sum);
}
LSTM_FUSED_INLINE Vec<float> multiply_add(float a, Vec<float> w, Vec<float> sum) {
  return _mm512_fmadd_ps(_mm512_set1_ps(a), w, sum);
}
LSTM_FUSED_INLINE Vec<double> multiply_add(double a, Vec<double> w, Vec<double> sum) {
  return _mm512_fmadd_pd(_mm512_set1_pd(a), w, sum);
}
#elif defined(__AVX2__)
LSTM_FUSED_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> w, Vec<float> sum) {
  return _mm256_fmadd_ps(a, w, sum);
}
LSTM_FUSED_INLINE Vec<double> multiply_add(Vec<double> a, Vec<double> w, Vec<double> sum) {
  return _mm256_fmadd_pd(a, w, sum);
}
LSTM_FUSED_INLINE Vec<float> multiply_add(float a, Vec<float> w, Vec<float> sum) {
  return _mm256_fmadd_ps(_mm256_set1_ps(a), w, sum);
}
LSTM_FUSED_INLINE Vec<double> multiply_add(double a, Vec<double> w, Vec<double> sum) {
  return _mm256_fmadd_pd(_mm256_set1_pd(a), w, sum);
}
#elif LSTM_FUSED_NEON
LSTM_FUSED_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> w, Vec<float> sum) {
  return (Vec<float>)vfmaq_f32((float32x4_t)sum, (float32x4_t)w, (float32x4_t)a);
}
LSTM_FUSED_INLINE Vec<double> multiply_add(Vec<double> a, Vec<double> w, Vec<double> sum) {
  return (Vec<double>)vfmaq_f64((float64x2_t)sum, (float64x2_t)w, (float64x2_t)a);
}
LSTM_FUSED_INLINE Vec<float> multiply_add(float a, Vec<float> w, Vec<float> sum) {
  return (Vec<float>)vfmaq_n_f32((float32x4_t)sum, (float32x4_t)w, a);
}
LSTM_FUSED_INLINE Vec<double> multiply_add(double a, Vec<double> w, Vec<double> sum) {
  return (Vec<double>)vfmaq_n_f64((float64x2_t)sum, (float64x2_t)w, a);
}
#else
template <class A, class V>
LSTM_FUSED_INLINE V multiply_add(A a, V w, V sum) {
  return sum + a * w;
}
#endif

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
#elif LSTM_FUSED_NEON
  return (Ints<float>)vmovl_u16((uint16x4_t)bits);
#else
  return __builtin_convertvector(bits, Ints<float>);
#endif
}

LSTM_FUSED_INLINE Vec<float> widened(HalfBits bits, BFloat16) {
#if LSTM_FUSED_NEON
  return (Vec<float>)vshll_n_u16((uint16x4_t)bits, 16);
#else
  return (Vec<float>)(zero_extended(bits) << 16);
#endif
}

LSTM_FUSED_INLINE Vec<float> widened(HalfBits bits, Float16) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(-1, (__m256i)bits);
#elif defined(__F16C__)
  return _mm256_cvtph_ps((__m128i)bits);
#elif LSTM_FUSED_NEON
  return (Vec<float>)vcvt_f32_f16((float16x4_t)bits);
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
#elif LSTM_FUSED_NEON
  const int16x8_t halves = vmovl_s8((int8x8_t)(uint64_t)(uint32_t)bytes);
  return (Vec<float>)vcvtq_f32_s32(vmovl_s16(vget_low_s16(halves)));
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
#elif LSTM_FUSED_NEON
  return (HalfBits)vmovn_u32((uint32x4_t)v);
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
#elif LSTM_FUSED_NEON
  return (HalfBits)vcvt_f16_f32((float32x4_t)v);
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

// As one register, of which lane() takes its elements: GCC would load each of them by itself.
template <class T>
LSTM_FUSED_INLINE Vec<T> load_whole(const T* p) {
  Vec<T> v = load(p);
#if LSTM_FUSED_NEON
  asm("" : "+w"(v));
#endif
  return v;
}
// Of a vector, or the one element that is there.
template <class E, class Lanes>
LSTM_FUSED_INLINE E lane(Lanes lanes, int n) {
  if constexpr (std::is_same_v<E, Lanes>)
    return lanes;
  else
    return lanes[n];
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

// f(lane) for the first n lanes. Unrolled, as in a loop GCC takes few floats for a call of memcpy.
template <class T, class F>
LSTM_FUSED_INLINE void for_lanes(int n, F&& f) {
#if LSTM_FUSED_NEON
#pragma GCC unroll 4
  for (int lane = 0; lane < kLanes<T>; ++lane)
    if (lane < n) f(lane);
#else
  for (int lane = 0; lane < n; ++lane) f(lane);
#endif
}

// The first n lanes, for the last vector of a row whose width is no multiple of the lanes; the others read as zero.
template <class T>
LSTM_FUSED_INLINE Vec<Wide<T>> load(const T* p, int n) {
  if (n == kLanes<Wide<T>>) return load(p);
  if constexpr (std::is_same_v<T, Wide<T>>) {
    Vec<T> v = {};
    for_lanes<T>(n, [&](int lane) { v[lane] = p[lane]; });
    return v;
  } else {
    HalfBits bits = {};
    for_lanes<float>(n, [&](int lane) { bits[lane] = p[lane].bits; });
    return widened(bits, T());
  }
}

template <class T>
LSTM_FUSED_INLINE void store(T* p, Vec<Wide<T>> v, int n) {
  if (n == kLanes<Wide<T>>) return store(p, v);
  if constexpr (std::is_same_v<T, Wide<T>>) {
    for_lanes<T>(n, [&](int lane) { p[lane] = v[lane]; });
  } else {
    const HalfBits bits = narrowed(v, T());
    for_lanes<float>(n, [&](int lane) { p[lane].bits = bits[lane]; });
  }
}

}  // namespace lstm_fused::LSTM_FUSED_ISA
