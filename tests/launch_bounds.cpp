// What csrc/tiles.h says of kernels, for tests/cuda/test_resources.py: reads lines `kind direction arithmetic
// hidden_chunks input_chunks` and prints the most threads of a block and the registers per thread that the planner
// counts with.
#include <iostream>
#include <string>

#include "tiles.h"

int main() {
  using namespace lstm_fused;
  std::string kind, direction, arithmetic;
  BlockVariant variant;
  while (std::cin >> kind >> direction >> arithmetic >> variant.hidden_chunks >> variant.input_chunks) {
    const bool tf32 = arithmetic == "TF32";
    const DType dtype = arithmetic == "Float16"    ? DType::kFloat16
                        : arithmetic == "BFloat16" ? DType::kBFloat16
                        : arithmetic == "Float64"  ? DType::kFloat64
                                                   : DType::kFloat32;
    int64_t threads = kThreads, registers = 65536 / kThreads;
    if (kind == "block") {
      const int64_t units = block_max_units(dtype, variant);
      const bool forward = direction == "forward";
      threads = forward ? block_forward_threads(units) : block_backward_threads(units);
      registers =
          forward ? block_forward_registers(dtype, tf32, variant) : block_backward_registers(dtype, tf32, variant);
    }
    std::cout << threads << ' ' << registers << '\n';
  }
}
