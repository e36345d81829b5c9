// What PTX computes: a function of C++ for each instruction, of the values of its operands.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "sim/numbers.h"

namespace sim::ptx {

template <class T>
constexpr int kBits = 8 * static_cast<int>(sizeof(T));

// Integers wrap around. 64 bits are wide enough for any product whose lower bits are wanted.
template <class T>
uint64_t wide(T a) {
  return static_cast<uint64_t>(a);
}

template <class T>
T add(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a + b;
  return static_cast<T>(wide(a) + wide(b));
}
template <class T>
T sub(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a - b;
  return static_cast<T>(wide(a) - wide(b));
}
template <class T>
T mul(T a, T b) {  // of integers: mul.lo
  if constexpr (std::is_floating_point_v<T>) return a * b;
  return static_cast<T>(wide(a) * wide(b));
}
template <class T>
T mad(T a, T b, T c) {
  return static_cast<T>(wide(a) * wide(b) + wide(c));
}
template <class D, class S>
D mul_wide(S a, S b) {
  return static_cast<D>(a) * static_cast<D>(b);
}
template <class D, class S>
D mad_wide(S a, S b, D c) {
  return add(mul_wide<D, S>(a, b), c);
}
template <class T>
T mul_hi(T a, T b) {
  static_assert(sizeof(T) == 4);
  return static_cast<T>(static_cast<int64_t>(a) * static_cast<int64_t>(b) >> 32);
}

// By zero, and the one quotient that does not fit: PTX leaves them open. x86 would trap.
template <class T>
T div(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return sub(T{0}, a);
  return static_cast<T>(a / b);
}
template <class T>
T rem(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}
template <class T>
T min(T a, T b) {  // of a NaN and a number the number
  return a < b || b != b ? a : b;
}
template <class T>
T max(T a, T b) {
  return a > b || b != b ? a : b;
}
template <class T>
T neg(T a) {
  if constexpr (std::is_floating_point_v<T>) return -a;
  return sub(T{0}, a);
}
template <class T>
T abs(T a) {
  if constexpr (std::is_floating_point_v<T>) return std::fabs(a);
  return a < 0 ? neg(a) : a;
}

template <class T>
T bit_and(T a, T b) {
  return static_cast<T>(a & b);
}
template <class T>
T bit_or(T a, T b) {
  return static_cast<T>(a | b);
}
template <class T>
T bit_xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <class T>
T bit_not(T a) {
  return static_cast<T>(std::is_same_v<T, bool> ? !a : ~wide(a));
}
template <class T>
T shl(T a, uint32_t by) {
  return static_cast<T>(by < kBits<T> ? wide(a) << by : 0);
}
template <class T>
T shr(T a, uint32_t by) {  // of signed integers with copies of the sign
  if (by < kBits<T>) return static_cast<T>(a >> by);
  return static_cast<T>(std::is_signed_v<T> && a < 0 ? -1 : 0);
}
// `length` bits of a, put into b from bit `at` on.
template <class T>
T bfi(T a, T b, uint32_t at, uint32_t length) {
  at &= 0xff;
  length &= 0xff;
  const T field = shl(length < kBits<T> ? static_cast<T>((T{1} << length) - 1) : static_cast<T>(~T{0}), at);
  return static_cast<T>((b & ~field) | (shl(a, at) & field));
}
// `length` bits of a from bit `at` on.
template <class T>
T bfe(T a, uint32_t at, uint32_t length) {
  at &= 0xff;
  length &= 0xff;
  const T field = length < kBits<T> ? static_cast<T>((T{1} << length) - 1) : static_cast<T>(~T{0});
  return static_cast<T>(shr(a, at) & field);
}
// Each of four bytes is one of the eight of b and a, by three bits of the selector; its sign alone by the fourth.
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t all = wide(b) << 32 | a;
  uint32_t result = 0;
  for (int n = 0; n < 4; ++n) {
    const uint32_t which = selector >> 4 * n & 0xf;
    uint32_t byte = all >> 8 * (which & 7) & 0xff;
    if (which & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * n;
  }
  return result;
}

// Comparisons; those of floats with a u hold where an operand is NaN, the others but ne do not.
// clang-format off
template <class T> bool eq(T a, T b) { return a == b; }
template <class T> bool ne(T a, T b) { return a < b || a > b; }
template <class T> bool lt(T a, T b) { return a < b; }
template <class T> bool le(T a, T b) { return a <= b; }
template <class T> bool gt(T a, T b) { return a > b; }
template <class T> bool ge(T a, T b) { return a >= b; }
template <class T> bool equ(T a, T b) { return !ne(a, b); }
template <class T> bool neu(T a, T b) { return a != b; }
template <class T> bool ltu(T a, T b) { return !(a >= b); }
template <class T> bool leu(T a, T b) { return !(a > b); }
template <class T> bool gtu(T a, T b) { return !(a <= b); }
template <class T> bool geu(T a, T b) { return !(a < b); }
template <class T> bool is_nan(T a, T b) { return a != a || b != b; }
template <class T> bool is_num(T a, T b) { return !is_nan(a, b); }
// clang-format on

template <class T>
T fma(T a, T b, T c) {
  return std::fma(a, b, c);
}
// Rounded down. The product of two floats is exact in double, and `lost` is what its sum with c has been rounded by.
inline float fma_down(float a, float b, float c) {
  const double product = static_cast<double>(a) * b, sum = product + c, part = sum - product;
  const double lost = (product - (sum - part)) + (c - part);
  const float rounded = static_cast<float>(sum);
  const bool above = rounded > sum || (rounded == sum && lost < 0);
  return above ? std::nextafter(rounded, -std::numeric_limits<float>::infinity()) : rounded;
}
template <class T>
T copysign(T sign, T magnitude) {
  return std::copysign(magnitude, sign);
}
template <class T>
T rcp(T a) {
  return 1 / a;
}
template <class T>
T quotient(T a, T b) {
  return a / b;
}
template <class T>
T sqrt(T a) {
  return std::sqrt(a);
}

// Those of CUDA's own functions, which count on more than is documented: that 2^n is exact, for one.
inline float ex2_ftz(float a) { return flushed(static_cast<float>(std::exp2(double{flushed(a)}))); }
inline float rcp_ftz(float a) { return flushed(1 / flushed(a)); }
// The upper 32 bits alone, of the operand and of the result.
inline double rcp_upper_half(double a) {
  const auto upper = [](double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits &= 0xffffffff00000000;
    std::memcpy(&x, &bits, sizeof bits);
    return x;
  };
  return upper(flushed(1 / flushed(upper(a))));
}

// Conversions of floats; integers are converted as in C++.
template <class D, class S>
D convert(S a) {
  return static_cast<D>(a);
}
inline float saturate(float a) { return a >= 0 ? std::fmin(a, 1.0f) : 0; }  // NaN becomes 0
template <class T>
T round_to_integer(T a) {  // ties to even
  return std::nearbyint(a);
}
template <uint16_t (*round)(float)>
uint32_t two(float upper, float lower) {
  return static_cast<uint32_t>(round(upper)) << 16 | round(lower);
}
inline uint32_t to_tf32(float a) { return float_to_tf32(float_to_bits(a)); }

}  // namespace sim::ptx
