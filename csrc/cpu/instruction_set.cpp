#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "cpu/kernels.h"

namespace lstm_fused {

namespace {

const InstructionSet& choose() {
#if defined(__x86_64__)
  const char* forced = std::getenv("LSTM_FUSED_CPU_ISA");
  const auto wanted = [forced](const char* name) { return forced == nullptr || std::strcmp(forced, name) == 0; };
  const bool bf16 = wanted("avx512_bf16"), avx512 = bf16 || wanted("avx512");
  if (avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return bf16 && __builtin_cpu_supports("avx512bf16") ? avx512_bf16::kInstructionSet : avx512::kInstructionSet;
  if ((avx512 || wanted("avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return avx2::kInstructionSet;
  return baseline::kInstructionSet;
#elif defined(__aarch64__)
  return neon::kInstructionSet;  // which all have
#else
  return baseline::kInstructionSet;
#endif
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

int64_t l2_bytes() {
  static const int64_t bytes = [] {
    int64_t found = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return found > 0 ? found : int64_t{1} << 20;
  }();
  return bytes;
}

bool multiplies_bytes() {
#if defined(__x86_64__)
  return instruction_set().vector_bytes == 64 && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace lstm_fused
