// Faults around named barriers, cluster barriers and shared memory of other blocks.
#include "case.h"
#include "kernels/cluster_primitives.cuh"

namespace cases {
namespace {

constexpr int kNumThreads = 128, kNumBlocks = 4;

struct Params {
  bool broken;
  int* out;  // (kNumBlocks, kNumThreads)
};

LSTM_FUSED_DEVICE int* shared_ints() { return reinterpret_cast<int*>(shared_memory()); }
LSTM_FUSED_DEVICE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}
LSTM_FUSED_DEVICE void give(const Params& p, int value) {
  p.out[block_index().x * num_threads() + thread_index()] = value;
}
LSTM_FUSED_DEVICE int next_rank() { return (cluster_rank() + 1) % cluster_size(); }

// Two warps write, barrier 1, the two others read; barrier 2, and again.
LSTM_FUSED_KERNEL(128, 1) named_barriers(LSTM_FUSED_PARAMS Params p) {
  const int half = num_threads() / 2, t = thread_index() % half;
  for (int i = 0; i < 3; ++i) {
    if (thread_index() < half) {
      store_shared(shared_ints() + t, t + i);
      named_barrier(1, num_threads());
      named_barrier(2, num_threads());
    } else {
      named_barrier(1, num_threads());
      const int value = load_shared(shared_ints() + (t + 1) % half);
      if (!p.broken) named_barrier(2, num_threads());
      give(p, value - i);
      if (p.broken) named_barrier(2, num_threads());
      if (p.broken) load_shared(shared_ints() + t);
    }
  }
  if (thread_index() < half) give(p, (t + 1) % half);
}

LSTM_FUSED_KERNEL(128, 1) named_barrier_count(LSTM_FUSED_PARAMS Params p) {
  const int half = num_threads() / 2, t = thread_index() % half;
  if (thread_index() < half) {
    store_shared(shared_ints() + t, t);
    named_barrier(1, p.broken ? 96 : 64);
    give(p, load_shared(shared_ints() + (t + 1) % half));
  } else {
    give(p, (t + 1) % half);
  }
}

LSTM_FUSED_KERNEL(128, 1) missing_cluster_barrier(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  cluster_barrier();
  store_remote(map_shared(shared_ints() + t, next_rank()), (t + 1) % 64);
  if (!p.broken) cluster_barrier();
  block_barrier();
  give(p, load_shared(shared_ints() + t));
}

// Until the first cluster barrier other blocks may not have started.
LSTM_FUSED_KERNEL(128, 1) no_barrier_at_the_start(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  if (!p.broken) cluster_barrier();
  store_remote(map_shared(shared_ints() + t, next_rank()), (t + 1) % 64);
  cluster_barrier();
  give(p, load_shared(shared_ints() + t));
}

// Between its arrival and the end of its wait a thread may not count on anything.
LSTM_FUSED_KERNEL(128, 1) read_between_arrive_and_wait(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  cluster_barrier();
  store_remote(map_shared(shared_ints() + t, next_rank()), (t + 1) % 64);
  cluster_arrive();
  if (!p.broken) cluster_wait();
  give(p, load_shared(shared_ints() + t));
  if (p.broken) cluster_wait();
}

// What is written behind the arrival is not part of it.
LSTM_FUSED_KERNEL(128, 1) write_between_arrive_and_wait(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  cluster_barrier();
  if (p.broken) cluster_arrive();
  store_remote(map_shared(shared_ints() + t, next_rank()), (t + 1) % 64);
  if (!p.broken) cluster_arrive();
  cluster_wait();
  give(p, load_shared(shared_ints() + t));
  cluster_barrier();
}

LSTM_FUSED_KERNEL(128, 1) arrive_twice(LSTM_FUSED_PARAMS Params p) {
  cluster_arrive();
  if (!p.broken) cluster_wait();
  cluster_arrive();
  cluster_wait();
  give(p, (thread_index() + 1) % 64);
}

// A block that ends takes its shared memory with it.
LSTM_FUSED_KERNEL(128, 1) block_ends_early(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  give(p, (t + 1) % 64);
  store_shared(shared_ints() + t, t);
  cluster_barrier();
  if (p.broken && cluster_rank() == 2) return;
  for (int i = 0; i < 3; ++i) block_barrier();
  store_remote(map_shared(shared_ints() + t, next_rank()), t);
  cluster_barrier();
}

LSTM_FUSED_KERNEL(128, 1) rank_outside_cluster(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  store_shared(shared_ints() + t, t);
  cluster_barrier();
  const RemoteShared<int> next = map_shared(shared_ints() + t, p.broken ? cluster_size() : next_rank());
  store_remote(next, (t + 1) % 64);
  cluster_barrier();
  give(p, load_shared(shared_ints() + t));
}

LSTM_FUSED_KERNEL(128, 1) not_shared(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  cluster_barrier();
  store_remote(map_shared(p.broken ? p.out : shared_ints() + t, next_rank()), (t + 1) % 64);
  cluster_barrier();
  give(p, load_shared(shared_ints() + t));
}

template <void (*kernel)(const Params), int cluster>
void run_case(bool broken) {
  std::vector<int> out(kNumBlocks * kNumThreads, -1), wanted(out.size());
  for (size_t i = 0; i < out.size(); ++i) wanted[i] = static_cast<int>(i + 1) % 64;
  run(kernel, {{kNumBlocks, 1, 1}, kNumThreads, kNumThreads * 4, cluster}, Params{broken, out.data()});
  expect(out, wanted);
}

}  // namespace

const std::vector<Case> kClusterCases = {
    {"named_barriers", run_case<named_barriers, 1>},
    {"named_barrier_count", run_case<named_barrier_count, 1>},
    {"missing_cluster_barrier", run_case<missing_cluster_barrier, 2>},
    {"no_barrier_at_the_start", run_case<no_barrier_at_the_start, 4>},
    {"read_between_arrive_and_wait", run_case<read_between_arrive_and_wait, 2>},
    {"write_between_arrive_and_wait", run_case<write_between_arrive_and_wait, 4>},
    {"arrive_twice", run_case<arrive_twice, 2>},
    {"block_ends_early", run_case<block_ends_early, 4>},
    {"rank_outside_cluster", run_case<rank_outside_cluster, 2>},
    {"not_shared", run_case<not_shared, 2>},
};

}  // namespace cases
