// Where x W_ih^T of a layer is formed: by the recurrence, or by a product before it.
#pragma once

#include <algorithm>

#include "torch/cpu/cpu.h"

namespace lstm_fused {

struct InputProjection {
  int64_t batch, input_size, hidden_size, proj_width, element_bytes;

  // Whether the recurrence forms x W_ih^T itself, which saves writing it to memory and reading it back but reads W_ih
  // at every step. That takes a few rows for each tile; for weights that do not stay in cache, more rows to hide the
  // reading; and a panel of W_ih that nearly stays in the first-level cache from one tile to the next. Time of
  // inference with torch's product over that with our own, one AVX-512 core, (T, B, I, H): 1.16 at (32, 8, 64, 64),
  // 1.11 at (32, 64, 64, 64), 1.08 at (32, 64, 256, 256); 0.90 at (256, 1, 64, 64), 0.89 at (32, 16, 256, 256), 0.97 at
  // (16, 64, 512, 512), 0.92 at (32, 64, 1024, 64). Without fused multiply-add the sums of a product of its own are
  // closer. Nothing else decides: the order of the sums must not depend on the number of threads.
  bool in_recurrence() const {
    constexpr int64_t kLeastRows = 4, kMostInputs = 512;
    constexpr int64_t kBytesPerRow = 64 * 1024, kMostRows = 64;  // that share one reading of the weights
    const int64_t weight_bytes = kNumGates * hidden_size * (input_size + proj_width) * element_bytes;
    return instruction_set().multiplies_and_adds && batch >= kLeastRows && input_size <= kMostInputs &&
           weight_bytes <= kBytesPerRow * std::min(batch, kMostRows);
  }

  // Otherwise, how many steps to project and then run at a time: x W_ih^T should still be in the second-level cache
  // when the recurrence reads it, and the product should have a few hundred rows to be worth its own packing. Where
  // only x is widened, a range need not be long.
  int64_t steps_per_range(bool only_widens) const {
    constexpr int64_t kRows = 512, kWidenedRows = 128;
    const int64_t cached_rows = l2_bytes() / 2 / (kNumGates * hidden_size * element_bytes);
    const int64_t rows = only_widens ? kWidenedRows : std::max(cached_rows, kRows);
    return std::max<int64_t>(1, rows / std::max<int64_t>(1, batch));
  }
};

}  // namespace lstm_fused
