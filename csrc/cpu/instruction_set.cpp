#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace lstm_fused {

namespace {

struct Candidate {
  const char* name;
  const InstructionSet* set;  // null where the build leaves it out
  bool runs;                  // here
};

const InstructionSet& choose() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
  const Candidate from_the_widest_on[] = {
#if defined(__x86_64__)
      {"avx512_bf16", &avx512_bf16::kInstructionSet, avx512 && __builtin_cpu_supports("avx512bf16")},
      {"avx512", &avx512::kInstructionSet, avx512},
      {"avx2", &avx2::kInstructionSet, avx2},
#elif defined(__aarch64__)
      {"neon", &neon::kInstructionSet, true},
#endif
      {"baseline", &baseline::kInstructionSet, true},
  };
  const char* forced = std::getenv("LSTM_FUSED_CPU_ISA");
  bool wanted = forced == nullptr;
  std::string built;
  for (const Candidate& candidate : from_the_widest_on) {
    wanted |= forced != nullptr && std::strcmp(forced, candidate.name) == 0;
    if (wanted && candidate.set != nullptr && candidate.runs) return *candidate.set;
    if (candidate.set != nullptr) built += std::string(" ") + candidate.name;
  }
  throw std::runtime_error("lstm_fused was built for" + (built.empty() ? " nothing" : built) +
                           ", and this machine has none of that" +
                           (forced == nullptr ? "" : std::string(" within LSTM_FUSED_CPU_ISA=") + forced) +
                           ": build it here, or for all machines, without LSTM_FUSED_CPU=here");
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

int64_t l2_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return 1 << 20;
}

int64_t l1_bytes() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  static const int64_t bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return 32 << 10;
}

bool multiplies_bytes() {
#if defined(__x86_64__)
  const int64_t vector_bytes = instruction_set().vector_bytes;
  return vector_bytes == 32 || (vector_bytes == 64 && __builtin_cpu_supports("avx512vnni"));
#else
  return false;
#endif
}

}  // namespace lstm_fused
