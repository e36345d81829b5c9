// Accesses to global memory that are made only where they are wanted, in the manner of primitives.cuh. They have no
// branch: that would cut in two what is otherwise one stretch of code, in which a warp has much to do while it waits.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/primitives.cuh"

namespace lstm_fused {

// What is not loaded is zero.
template <class V>
LSTM_FUSED_DEVICE V load_global_if(bool wanted, const V* p) {
  static_assert(sizeof(V) == 2 || sizeof(V) == 4 || sizeof(V) == 16);
  V value;
  if constexpr (sizeof(V) == 2) {
    uint16_t bits;
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %1, 0;\nmov.b16 %0, 0;\n@p ld.global.b16 %0, [%2];\n}"
                 : "=h"(bits)
                 : "r"(static_cast<uint32_t>(wanted)), "l"(p)
                 : "memory");
    std::memcpy(&value, &bits, sizeof(V));
  } else if constexpr (sizeof(V) == 4) {
    uint32_t bits;
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %1, 0;\nmov.b32 %0, 0;\n@p ld.global.b32 %0, [%2];\n}"
                 : "=r"(bits)
                 : "r"(static_cast<uint32_t>(wanted)), "l"(p)
                 : "memory");
    std::memcpy(&value, &bits, sizeof(V));
  } else {
    Vector16 bits;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.u32 p, %4, 0;\n"
        "mov.b32 %0, 0;\n"
        "mov.b32 %1, 0;\n"
        "mov.b32 %2, 0;\n"
        "mov.b32 %3, 0;\n"
        "@p ld.global.v4.b32 {%0, %1, %2, %3}, [%5];\n"
        "}"
        : "=r"(bits.word[0]), "=r"(bits.word[1]), "=r"(bits.word[2]), "=r"(bits.word[3])
        : "r"(static_cast<uint32_t>(wanted)), "l"(p)
        : "memory");
    std::memcpy(&value, &bits, sizeof(V));
  }
  return value;
}
template <class V>
LSTM_FUSED_DEVICE void store_global_if(bool wanted, V* p, V value) {
  static_assert(sizeof(V) == 2 || sizeof(V) == 4);
  if constexpr (sizeof(V) == 2) {
    uint16_t bits;
    std::memcpy(&bits, &value, sizeof(V));
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\n@p st.global.b16 [%0], %1;\n}" ::"l"(p), "h"(bits),
                 "r"(static_cast<uint32_t>(wanted))
                 : "memory");
  } else {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(V));
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\n@p st.global.b32 [%0], %1;\n}" ::"l"(p), "r"(bits),
                 "r"(static_cast<uint32_t>(wanted))
                 : "memory");
  }
}

}  // namespace lstm_fused
