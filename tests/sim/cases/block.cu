// Faults around block_barrier and shared memory.
#include <numeric>

#include "case.h"

namespace cases {
namespace {

constexpr int kNumThreads = 96;

struct Params {
  bool broken;
  int* out;
};

LSTM_FUSED_DEVICE int* shared_ints() { return reinterpret_cast<int*>(shared_memory()); }

// Thread t of n gives what thread t + 1 wrote: t + 1 (mod n).
std::vector<int> neighbours(int n) {
  std::vector<int> values(n);
  for (int i = 0; i < n; ++i) values[i] = (i + 1) % n;
  return values;
}

void run_neighbours(void (*kernel)(const Params), bool broken, int num_blocks = 1) {
  std::vector<int> out(kNumThreads * num_blocks, -1), wanted;
  run(kernel, {{num_blocks, 1, 1}, kNumThreads, kNumThreads * 4}, Params{broken, out.data()});
  for (int i = 0; i < num_blocks; ++i) {
    for (int value : neighbours(kNumThreads)) wanted.push_back(value);
  }
  expect(out, wanted);
}

LSTM_FUSED_KERNEL(96, 1) missing_barrier(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  store_shared(shared_ints() + t, t);
  if (!p.broken) block_barrier();
  p.out[block_index().x * n + t] = load_shared(shared_ints() + (t + 1) % n);
}

// The same buffer again and again: who writes has to know that all have read.
LSTM_FUSED_KERNEL(96, 1) write_before_all_have_read(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  for (int i = 0; i < 3; ++i) {
    store_shared(shared_ints() + t, t);
    block_barrier();
    p.out[t] = load_shared(shared_ints() + (t + 1) % n);
    if (!p.broken) block_barrier();
  }
}

LSTM_FUSED_KERNEL(96, 1) barrier_in_a_branch(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  store_shared(shared_ints() + t, t);
  if (!p.broken || t % 32 < 20) block_barrier();
  p.out[t] = t % 32 < 20 || !p.broken ? load_shared(shared_ints() + (t + 1) % n) : 0;
}

LSTM_FUSED_KERNEL(96, 1) early_exit(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  if (p.broken && t == 50) return;
  store_shared(shared_ints() + t, t);
  block_barrier();
  p.out[t] = load_shared(shared_ints() + (t + 1) % n);
}

LSTM_FUSED_KERNEL(96, 1) different_barriers(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  store_shared(shared_ints() + t, t);
  if (p.broken && t < 32) {
    block_barrier();
  } else {
    block_barrier();
  }
  p.out[t] = load_shared(shared_ints() + (t + 1) % n);
}

LSTM_FUSED_KERNEL(96, 1) unwritten(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  if (!p.broken || t != 70) store_shared(shared_ints() + t, t);
  block_barrier();
  p.out[t] = load_shared(shared_ints() + (t + 1) % n);
}

LSTM_FUSED_KERNEL(96, 1) shared_read_out_of_bounds(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  store_shared(shared_ints() + t, t);
  block_barrier();
  p.out[t] = load_shared(shared_ints() + (p.broken ? t + 1 : (t + 1) % n));
}

LSTM_FUSED_KERNEL(96, 1) shared_write_out_of_bounds(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  store_shared(shared_ints() + t - (p.broken && t == 0), t);
  block_barrier();
  p.out[t] = load_shared(shared_ints() + (t + 1) % n);
}

LSTM_FUSED_KERNEL(96, 1) misaligned(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  store_shared(shared_ints() + t, t);
  block_barrier();
  const int first = p.broken ? t / 4 * 4 + (t < 92 ? 1 : 0) : t / 4 * 4;
  const Vector16 four = load_shared(reinterpret_cast<const Vector16*>(shared_ints() + first));
  p.out[t] = static_cast<int>(four.word[t % 4] + 1) % num_threads();
}

LSTM_FUSED_KERNEL(96, 1) global_out_of_bounds(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index(), n = num_threads();
  p.out[p.broken ? t + 1 : t] = (t + 1) % n;
}

LSTM_FUSED_KERNEL(96, 1) deep_stack(LSTM_FUSED_PARAMS Params p) {
  volatile char frame[sim::kStackBytes / 8 * 7];
  frame[0] = 0;
  if (p.broken) block_barrier();
  p.out[thread_index()] = frame[0] + (thread_index() + 1) % num_threads();
}

template <void (*kernel)(const Params)>
void run_case(bool broken) {
  run_neighbours(kernel, broken);
}

}  // namespace

const std::vector<Case> kBlockCases = {
    {"missing_barrier", run_case<missing_barrier>},
    {"missing_barrier_in_many_blocks", [](bool broken) { run_neighbours(missing_barrier, broken, 100); }},
    {"write_before_all_have_read", run_case<write_before_all_have_read>},
    {"barrier_in_a_branch", run_case<barrier_in_a_branch>},
    {"early_exit", run_case<early_exit>},
    {"different_barriers", run_case<different_barriers>},
    {"unwritten", run_case<unwritten>},
    {"shared_read_out_of_bounds", run_case<shared_read_out_of_bounds>},
    {"shared_write_out_of_bounds", run_case<shared_write_out_of_bounds>},
    {"misaligned", run_case<misaligned>},
    {"global_out_of_bounds", run_case<global_out_of_bounds>},
    {"deep_stack", run_case<deep_stack>},
};

}  // namespace cases
