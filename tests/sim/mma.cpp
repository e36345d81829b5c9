// D (16, 8) += A (16, K) B (K, 8) of a warp. Products are exact; the sums are in float, k after k. The hardware's order
// and rounding are its own.
#include "device.h"
#include "numbers.h"

namespace sim {
namespace {

using Row = float __attribute__((vector_size(32)));  // of B or D

struct Lane {
  float* d;
  const uint32_t *a, *b;
};

struct Float16Pair {
  static constexpr int kPerWord = 2;
  static float element(uint32_t word, int i) { return float16_to_float(static_cast<uint16_t>(word >> 16 * i)); }
};
struct BFloat16Pair {
  static constexpr int kPerWord = 2;
  static float element(uint32_t word, int i) { return bfloat16_to_float(static_cast<uint16_t>(word >> 16 * i)); }
};
struct Tf32 {
  static constexpr int kPerWord = 1;
  static float element(uint32_t word, int) { return bits_to_float(word & 0xffffe000u); }
};

// The fragments as the primitives' header describes them.
template <class Word>
void multiply(Warp&, void* const (&deposits)[kWarpSize]) {
  constexpr int kPer = Word::kPerWord, kHalf = 4 * kPer, kDepth = 2 * kHalf;
  float a[16][kDepth];
  Row b[kDepth], d[16];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Lane& from = *static_cast<Lane*>(deposits[lane]);
    const int group = lane / 4, pair = lane % 4;
    for (int i = 0; i < kPer; ++i) {
      const int k = kPer * pair + i;
      for (int r = 0; r < 4; ++r) a[group + r % 2 * 8][k + r / 2 * kHalf] = Word::element(from.a[r], i);
      for (int r = 0; r < 2; ++r) b[k + r * kHalf][group] = Word::element(from.b[r], i);
    }
    for (int i = 0; i < 4; ++i) d[group + i / 2 * 8][2 * pair + i % 2] = from.d[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) d[row] += a[row][k] * b[k];
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Lane& to = *static_cast<Lane*>(deposits[lane]);
    for (int i = 0; i < 4; ++i) to.d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

}  // namespace

void mma(Factor factor, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  Lane lane{d, a, b};
  switch (factor) {
    case Factor::kFloat16:
      return machine->meet_warp("mma_float16", site, &lane, multiply<Float16Pair>);
    case Factor::kBFloat16:
      return machine->meet_warp("mma_bfloat16", site, &lane, multiply<BFloat16Pair>);
    case Factor::kTf32:
      return machine->meet_warp("mma_tf32", site, &lane, multiply<Tf32>);
  }
}

}  // namespace sim
