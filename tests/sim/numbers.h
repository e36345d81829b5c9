// The GPU's number formats and conversions, in integer arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace sim {

inline float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float16_to_float(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  if (exponent == 0) return bits_to_float(sign | float_to_bits(static_cast<float>(fraction) * 0x1p-24f));
  return bits_to_float(sign | (exponent == 0x1f ? 0xff : exponent + 112) << 23 | fraction << 13);
}
inline float bfloat16_to_float(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }

// To the nearest, ties to even; any NaN becomes 0x7fff, as on the GPU.
inline uint16_t float_to_float16(float x) {
  const uint32_t bits = float_to_bits(x), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {                       // below 2^-14: a multiple of 2^-24
    // Adding 2^-1, whose last bit is worth 2^-24, rounds as asked for.
    return sign | static_cast<uint16_t>(float_to_bits(bits_to_float(magnitude) + 0.5f) - float_to_bits(0.5f));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
}
inline uint16_t float_to_bfloat16(float x) {
  const uint32_t bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// To the nearest, ties away from zero; any NaN becomes 0x7fffffff.
inline uint32_t float_to_tf32(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffffffu;
  return magnitude == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

// With ftz numbers below the normal ones are zero, as operands and as results.
template <class T>
T flushed(T a) {
  return std::fabs(a) < std::numeric_limits<T>::min() ? std::copysign(T{0}, a) : a;
}

// With ftz, and a relative error of up to 2^-22, so that nobody relies on less.
float exp2_approximate(float x);
float reciprocal_approximate(float x);
// With one of up to 2^-11; odd.
float tanh_approximate(float x);

}  // namespace sim
