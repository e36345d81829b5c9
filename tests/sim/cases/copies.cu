// Faults with copies from global to shared memory. Every thread copies four ints and gives their sum.
#include <numeric>

#include "case.h"

namespace cases {
namespace {

constexpr int kNumThreads = 64;

struct Params {
  bool broken;
  const int* in;  // (2, kNumThreads, 4)
  int* out;
};

LSTM_FUSED_DEVICE Vector16* slot(int stage, int thread) {
  return reinterpret_cast<Vector16*>(shared_memory()) + stage * num_threads() + thread;
}
LSTM_FUSED_DEVICE void copy(const Params& p, int stage, int from) {
  copy_async_16(slot(stage, thread_index()), p.in + 4 * (stage * num_threads() + from));
}
LSTM_FUSED_DEVICE int sum(int stage, int thread) {
  const Vector16 four = load_shared(slot(stage, thread));
  return static_cast<int>(four.word[0] + four.word[1] + four.word[2] + four.word[3]);
}

LSTM_FUSED_KERNEL(64, 1) read_before_wait(LSTM_FUSED_PARAMS Params p) {
  copy(p, 0, thread_index());
  close_copies();
  if (!p.broken) wait_for_copies<0>();
  p.out[thread_index()] = sum(0, thread_index());
}

// wait_for_copies counts closed groups: one that is still open is not waited for.
LSTM_FUSED_KERNEL(64, 1) group_left_open(LSTM_FUSED_PARAMS Params p) {
  copy(p, 0, thread_index());
  if (!p.broken) close_copies();
  wait_for_copies<0>();
  p.out[thread_index()] = sum(0, thread_index());
}

// Two groups in flight: waiting for all but one leaves the second.
LSTM_FUSED_KERNEL(64, 1) second_group(LSTM_FUSED_PARAMS Params p) {
  for (int stage = 0; stage < 2; ++stage) {
    copy(p, stage, thread_index());
    close_copies();
  }
  wait_for_copies<1>();
  p.out[thread_index()] = sum(p.broken ? 1 : 0, thread_index());
}

// Another thread's copy has arrived for this one only behind a barrier.
LSTM_FUSED_KERNEL(64, 1) copy_without_barrier(LSTM_FUSED_PARAMS Params p) {
  copy(p, 0, (thread_index() + 1) % num_threads());
  close_copies();
  wait_for_copies<0>();
  if (!p.broken) block_barrier();
  p.out[thread_index()] = sum(0, (thread_index() + num_threads() - 1) % num_threads());
}

// A stage is filled again while others still read it.
LSTM_FUSED_KERNEL(64, 1) copy_over_readers(LSTM_FUSED_PARAMS Params p) {
  for (int i = 0; i < 3; ++i) {
    copy(p, 0, (thread_index() + 1) % num_threads());
    close_copies();
    wait_for_copies<0>();
    block_barrier();
    p.out[thread_index()] = sum(0, (thread_index() + num_threads() - 1) % num_threads());
    if (!p.broken) block_barrier();
  }
}

LSTM_FUSED_KERNEL(64, 1) misaligned_copy(LSTM_FUSED_PARAMS Params p) {
  copy_async_16(slot(0, thread_index()), p.in + 4 * thread_index() + (p.broken ? 1 : 0));
  close_copies();
  wait_for_copies<0>();
  p.out[thread_index()] = sum(0, thread_index());
}

template <void (*kernel)(const Params)>
void run_case(bool broken) {
  alignas(16) int in[2 * kNumThreads * 4];
  std::iota(std::begin(in), std::end(in), 0);
  std::vector<int> out(kNumThreads, -1), wanted(kNumThreads);
  for (int i = 0; i < kNumThreads; ++i) wanted[i] = 16 * i + 6;
  run(kernel, {{1, 1, 1}, kNumThreads, 2 * kNumThreads * 16}, Params{broken, in, out.data()});
  expect(out, wanted);
}

}  // namespace

const std::vector<Case> kCopyCases = {
    {"read_before_wait", run_case<read_before_wait>},   {"group_left_open", run_case<group_left_open>},
    {"second_group", run_case<second_group>},           {"copy_without_barrier", run_case<copy_without_barrier>},
    {"copy_over_readers", run_case<copy_over_readers>}, {"misaligned_copy", run_case<misaligned_copy>},
};

}  // namespace cases
