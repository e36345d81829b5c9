#include <cstdlib>
#include <cstring>

#include "cpu/kernels.h"

namespace lstm_fused {

namespace baseline {
extern const InstructionSet kInstructionSet;
}

#if defined(__x86_64__)
namespace avx2 {
extern const InstructionSet kInstructionSet;
}
namespace avx512 {
extern const InstructionSet kInstructionSet;
}
#endif

namespace {

const InstructionSet& choose() {
  const char* forced = std::getenv("LSTM_FUSED_CPU_ISA");
  const auto wanted = [forced](const char* name) { return forced == nullptr || std::strcmp(forced, name) == 0; };
#if defined(__x86_64__)
  if (wanted("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return avx512::kInstructionSet;
  if ((wanted("avx512") || wanted("avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return avx2::kInstructionSet;
#else
  (void)wanted;
#endif
  return baseline::kInstructionSet;
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

bool multiplies_bytes() {
#if defined(__x86_64__)
  return &instruction_set() == &avx512::kInstructionSet && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace lstm_fused
