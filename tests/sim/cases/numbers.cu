// Numbers through the primitives, from stdin to stdout, and the speed of a matrix product.
#include <cstdio>
#include <cstring>

#include "case.h"

namespace cases {
namespace {

std::vector<char> read_all() {
  std::vector<char> bytes;
  char part[4096];
  while (size_t count = std::fread(part, 1, sizeof part, stdin)) bytes.insert(bytes.end(), part, part + count);
  return bytes;
}

template <class In, class Function>
int each(Function function) {
  const std::vector<char> bytes = read_all();
  for (size_t i = 0; i + sizeof(In) <= bytes.size(); i += sizeof(In)) {
    In in;
    std::memcpy(&in, &bytes[i], sizeof in);
    const auto out = function(in);
    std::fwrite(&out, sizeof out, 1, stdout);
  }
  return 0;
}

// One matrix product of each warp, `repeats` times over: D += A B. The matrices lie as fragments, lane after lane.
struct Params {
  int repeats;
  const uint32_t *a, *b;  // (32, 4), (32, 2)
  float* d;               // (warps, 32, 4)
};

using Mma = void (*)(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <class F>
LSTM_FUSED_DEVICE void multiply(const Params& p, F mma) {
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = p.a[lane_index() * 4 + i];
  for (int i = 0; i < 2; ++i) b[i] = p.b[lane_index() * 2 + i];
  const int warp = block_index().x * (num_threads() / kWarpSize) + warp_index();
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = p.d[(warp * kWarpSize + lane_index()) * 4 + i];
  for (int i = 0; i < p.repeats; ++i) mma(d, a, b);
  for (int i = 0; i < 4; ++i) p.d[(warp * kWarpSize + lane_index()) * 4 + i] = d[i];
}

LSTM_FUSED_KERNEL(128, 1) multiply_float16(LSTM_FUSED_PARAMS Params p) {
  multiply(p, [](auto& d, auto& a, auto& b) { mma_float16(d, a, b); });
}
LSTM_FUSED_KERNEL(128, 1) multiply_bfloat16(LSTM_FUSED_PARAMS Params p) {
  multiply(p, [](auto& d, auto& a, auto& b) { mma_bfloat16(d, a, b); });
}
LSTM_FUSED_KERNEL(128, 1) multiply_tf32(LSTM_FUSED_PARAMS Params p) {
  multiply(p, [](auto& d, auto& a, auto& b) { mma_tf32(d, a, b); });
}

// In: A, B, then D. Out: D.
int product(void (*kernel)(const Params)) {
  constexpr size_t kA = 32 * 4, kB = 32 * 2, kD = 32 * 4;
  std::vector<char> bytes = read_all();
  if (bytes.size() != 4 * (kA + kB + kD)) return 2;
  std::vector<uint32_t> words(kA + kB + kD);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  std::vector<float> d(kD);
  std::memcpy(d.data(), &words[kA + kB], 4 * kD);
  run(kernel, {{1, 1, 1}, kWarpSize}, Params{1, words.data(), &words[kA], d.data()});
  std::fwrite(d.data(), 4, kD, stdout);
  return 0;
}

// 4 blocks of 128 threads: 16 warps.
int many_products(int repeats) {
  std::vector<uint32_t> ones(128, 0x3f803f80u);
  std::vector<float> d(16 * 128, 0.0f);
  run(multiply_bfloat16, {{4, 1, 1}, 128}, Params{repeats, ones.data(), ones.data(), d.data()});
  expect(d, std::vector<float>(16 * 128, 16.0f * static_cast<float>(repeats)));
  return 0;
}

}  // namespace

int convert(const std::string& function) {
  if (function == "float16_to_float") return each<float16>([](float16 x) { return to_accumulator(x); });
  if (function == "bfloat16_to_float") return each<bfloat16>([](bfloat16 x) { return to_accumulator(x); });
  if (function == "float_to_float16") return each<float>([](float x) { return round_to<float16>(x); });
  if (function == "float_to_bfloat16") return each<float>([](float x) { return round_to<bfloat16>(x); });
  if (function == "round_to_tf32") return each<uint32_t>(round_to_tf32);
  if (function == "exp2_approximate") return each<float>(exp2_approximate);
  if (function == "reciprocal_approximate") return each<float>(reciprocal_approximate);
  if (function == "tanh_approximate") return each<float>(tanh_approximate);
  if (function == "mma_float16") return product(multiply_float16);
  if (function == "mma_bfloat16") return product(multiply_bfloat16);
  if (function == "mma_tf32") return product(multiply_tf32);
  if (function == "many_products") return many_products(1024);
  return 2;
}

}  // namespace cases
