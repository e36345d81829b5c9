// Where x W_ih^T of a layer is formed: by the recurrence, or by a product before it.
#pragma once

#include <algorithm>

#include "torch/cpu/cpu.h"

namespace lstm_fused {

struct InputProjection {
  int64_t batch, input_size, hidden_size, element_bytes;  // of a sum, as a panel of weights has them, too
  bool pairs;                                             // of inputs in an element

  // Whether the recurrence forms x W_ih^T itself, which saves writing it to memory and reading it back, but takes the
  // batch's rows in tiles that may be low, and reads W_ih at every step: a panel of it has to stay near the first-level
  // cache from one tile to the next, and all of it, if it comes from afar, needs rows to hide behind. Time of inference
  // without over that with, one Zen 5 core with AVX-512, (T, B, I, H): float32 1.10 at (64, 6, 64, 64), 1.06 at
  // (64, 32, 256, 256), 1.06 at (32, 64, 512, 512), 1.04 at (32, 64, 128, 1024), bfloat16 1.24 at (16, 64, 128, 2048),
  // 1.06 at (32, 64, 1024, 1024); but float32 0.96 at (64, 4, 128, 128), four rows in a tile, 0.94 at
  // (32, 64, 1024, 1024), whose panel is too large, and bfloat16 0.86 at (32, 4, 512, 512). With AVX2, tiles of six
  // rows, 1.07 at (64, 6, 64, 64), 0.89 at (64, 7, 256, 256), two tiles. Without fused multiply-add the sums of a
  // product of its own are closer. Nothing else decides: the order of the sums must not depend on the number of
  // threads.
  bool in_recurrence() const {
    constexpr int64_t kRowsPerTile = 5, kMostElements = 512;
    constexpr int64_t kBytesPerRow = 256 * 1024, kMostRows = 64;  // that share one reading of the weights
    const InstructionSet& set = instruction_set();
    const int64_t elements = pairs ? ceil_div(input_size, 2) : input_size;
    return set.multiplies_and_adds && batch >= kRowsPerTile * ceil_div(batch, set.tile_rows) &&
           elements <= kMostElements &&
           kNumGates * hidden_size * elements * element_bytes <= kBytesPerRow * std::min(batch, kMostRows);
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
