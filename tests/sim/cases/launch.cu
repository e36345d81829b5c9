// Grids as such: which ones are refused, how many blocks run at once, and what is counted.
#include <cstdio>

#include "case.h"

namespace cases {
namespace {

struct Params {
  int* blocks_here;  // blocks that have started and not ended
  int* most_blocks;
};

LSTM_FUSED_KERNEL(1024, 1) count_blocks(LSTM_FUSED_PARAMS Params p) {
  if (thread_index() == 0 && ++*p.blocks_here > *p.most_blocks) *p.most_blocks = *p.blocks_here;
  for (int i = 0; i < 200; ++i) block_barrier();  // long enough for every block with room to start
  if (thread_index() == 0) --*p.blocks_here;
}

}  // namespace

// Prints CUDA's error code, the most blocks that were on the machine at once, and the two counts of the simulator.
int launch_grid(const Grid& grid, int max_resident_blocks) {
  sim::reset_counts();
  sim::set_max_resident_blocks(max_resident_blocks);
  int here = 0, most = 0;
  const int error = launch_kernel(count_blocks, grid, nullptr, Params{&here, &most});
  std::printf("%d %d %d %d\n", error, most, static_cast<int>(sim::launches()),
              static_cast<int>(sim::max_shared_bytes()));
  return 0;
}

}  // namespace cases
