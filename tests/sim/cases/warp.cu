// Faults among the lanes of a warp.
#include "case.h"

namespace cases {
namespace {

constexpr int kNumThreads = 64;

struct Params {
  bool broken;
  int* out;
};

void run_case(void (*kernel)(const Params), bool broken, const std::vector<int>& wanted) {
  std::vector<int> out(kNumThreads, -1);
  run(kernel, {{1, 1, 1}, kNumThreads, kNumThreads * 4}, Params{broken, out.data()});
  expect(out, wanted);
}

LSTM_FUSED_DEVICE int sum_over_warp(int value) {
  for (int lanes = 1; lanes < kWarpSize; lanes *= 2) value += shuffle_xor(value, lanes);
  return value;
}

LSTM_FUSED_KERNEL(64, 1) lane_missing(LSTM_FUSED_PARAMS Params p) {
  int sum = 0;
  if (!p.broken || lane_index() != 5) sum = sum_over_warp(lane_index());
  p.out[thread_index()] = sum;
}

LSTM_FUSED_KERNEL(64, 1) lane_left(LSTM_FUSED_PARAMS Params p) {
  if (p.broken && thread_index() == 40) return;
  p.out[thread_index()] = sum_over_warp(lane_index());
}

// Two halves of a warp in different collectives.
LSTM_FUSED_KERNEL(64, 1) other_collective(LSTM_FUSED_PARAMS Params p) {
  if (p.broken && lane_index() < 16) any_lane(true);
  p.out[thread_index()] = sum_over_warp(lane_index());
}

LSTM_FUSED_KERNEL(64, 1) missing_warp_barrier(LSTM_FUSED_PARAMS Params p) {
  int* mine = reinterpret_cast<int*>(shared_memory()) + warp_index() * kWarpSize;
  for (int i = 0; i < 4; ++i) {
    store_shared(mine + lane_index(), lane_index());
    warp_barrier();
    p.out[thread_index()] = load_shared(mine + (lane_index() + 1) % kWarpSize);
    if (!p.broken) warp_barrier();
  }
}

// A warp barrier orders the lanes of one warp, not two warps.
LSTM_FUSED_KERNEL(64, 1) warp_barrier_for_a_block(LSTM_FUSED_PARAMS Params p) {
  int* ints = reinterpret_cast<int*>(shared_memory());
  store_shared(ints + thread_index(), thread_index());
  p.broken ? warp_barrier() : block_barrier();
  p.out[thread_index()] = load_shared(ints + (thread_index() + kWarpSize) % num_threads()) % kWarpSize;
}

// Shuffles and votes order nothing in memory.
LSTM_FUSED_KERNEL(64, 1) vote_as_a_barrier(LSTM_FUSED_PARAMS Params p) {
  int* ints = reinterpret_cast<int*>(shared_memory());
  store_shared(ints + thread_index(), thread_index());
  if (p.broken) {
    any_lane(true);
  } else {
    warp_barrier();
  }
  p.out[thread_index()] = load_shared(ints + (thread_index() ^ 1)) % kWarpSize;
}

std::vector<int> by_lane(int (*value)(int lane)) {
  std::vector<int> values(kNumThreads);
  for (int i = 0; i < kNumThreads; ++i) values[i] = value(i % kWarpSize);
  return values;
}

int sum_of_lanes(int) { return 31 * 32 / 2; }
int next_lane(int lane) { return (lane + 1) % kWarpSize; }
int same_lane(int lane) { return lane; }
int other_lane(int lane) { return lane ^ 1; }

template <void (*kernel)(const Params), int (*value)(int)>
void run_lanes(bool broken) {
  run_case(kernel, broken, by_lane(value));
}

}  // namespace

const std::vector<Case> kWarpCases = {
    {"lane_missing", run_lanes<lane_missing, sum_of_lanes>},
    {"lane_left", run_lanes<lane_left, sum_of_lanes>},
    {"other_collective", run_lanes<other_collective, sum_of_lanes>},
    {"missing_warp_barrier", run_lanes<missing_warp_barrier, next_lane>},
    {"warp_barrier_for_a_block", run_lanes<warp_barrier_for_a_block, same_lane>},
    {"vote_as_a_barrier", run_lanes<vote_as_a_barrier, other_lane>},
};

}  // namespace cases
