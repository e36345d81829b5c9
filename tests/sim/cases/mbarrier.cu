// Faults with mbarriers. In every step each block sends one int per thread to the next block of its cluster, in turns
// into one of two buffers with an mbarrier each; a thread gives the sum of what came.
#include "case.h"
#include "kernels/cluster_primitives.cuh"

namespace cases {
namespace {

constexpr int kNumThreads = 64, kNumBlocks = 4, kCluster = 2, kSteps = 6, kBufferBytes = kNumThreads * 4;

enum class Fault {
  kNone,
  kCountTooSmall,
  kCountTooLarge,
  kParity,
  kNoWait,
  kNoExpect,
  kTooManyBytes,
  kNoFence,
  kPlainAccess,
  kUninitialised,
  kOneBuffer,
  kOvertaken
};

struct Params {
  Fault fault;
  int* out;  // (kNumBlocks, kNumThreads)
};

LSTM_FUSED_DEVICE MBarrier* mbarrier(int buffer) { return reinterpret_cast<MBarrier*>(shared_memory()) + buffer; }
LSTM_FUSED_DEVICE int* slot(int buffer, int thread) {
  return reinterpret_cast<int*>(shared_memory() + 64) + buffer * num_threads() + thread;
}
LSTM_FUSED_DEVICE void start(Fault fault, int arrivals) {
  if (thread_index() == 0) {
    for (int buffer = 0; buffer < (fault == Fault::kUninitialised ? 1 : 2); ++buffer) {
      mbarrier_init(mbarrier(buffer), arrivals - (fault == Fault::kCountTooSmall) + (fault == Fault::kCountTooLarge));
    }
    if (fault != Fault::kNoFence) mbarrier_fence_init();
  }
  cluster_arrive();
  cluster_wait();
  if (fault == Fault::kPlainAccess) load_shared(&mbarrier(0)->state);
}
LSTM_FUSED_DEVICE int next_rank() { return (cluster_rank() + 1) % cluster_size(); }
LSTM_FUSED_DEVICE void give(const Params& p, int sum) {
  cluster_arrive();  // nobody's shared memory goes while others may write to it
  cluster_wait();
  p.out[block_index().x * num_threads() + thread_index()] = sum;
}

// All threads of the sender arrive at the receiver's mbarrier. Two buffers are enough: who sends step n + 2 has
// received n + 1, and the neighbour, in a cluster of two, sent that after it had read n.
LSTM_FUSED_KERNEL(64, 1) send_and_arrive(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  start(p.fault, num_threads());
  int sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    const int buffer = p.fault == Fault::kOneBuffer ? 0 : step % 2;
    const int parity = p.fault == Fault::kOneBuffer ? step % 2 : step / 2 % 2;
    store_remote(map_shared(slot(buffer, t), next_rank()), step + t);
    mbarrier_arrive_remote(map_shared(mbarrier(buffer), next_rank()));
    if (p.fault != Fault::kNoWait) mbarrier_wait(mbarrier(buffer), parity ^ (p.fault == Fault::kParity));
    sum += load_shared(slot(buffer, (t + 1) % num_threads()));
    block_barrier();  // all of the block have read before any sends again
  }
  give(p, sum);
}

// The values announce themselves: the receiver's thread 0 says how many bytes will come.
LSTM_FUSED_KERNEL(64, 1) send_async(LSTM_FUSED_PARAMS Params p) {
  const int t = thread_index();
  start(p.fault, 1);
  int sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    const int buffer = step % 2, parity = step / 2 % 2;
    const int bytes = kBufferBytes + (p.fault == Fault::kTooManyBytes ? 4 : 0);
    if (t == 0) {
      if (p.fault == Fault::kNoExpect) {
        mbarrier_arrive(mbarrier(buffer));
      } else {
        mbarrier_arrive_expect_bytes(mbarrier(buffer), bytes);
      }
    }
    store_remote_async(map_shared(slot(buffer, t), next_rank()), step + t, map_shared(mbarrier(buffer), next_rank()));
    if (p.fault != Fault::kNoWait) mbarrier_wait(mbarrier(buffer), parity ^ (p.fault == Fault::kParity));
    sum += load_shared(slot(buffer, (t + 1) % num_threads()));
    block_barrier();
  }
  give(p, sum);
}

// Both warps wait for every phase; with the fault nobody waits for the second one.
LSTM_FUSED_KERNEL(64, 1) wait_for_both(LSTM_FUSED_PARAMS Params p) {
  const int warps = p.fault == Fault::kOvertaken ? 1 : 2;
  start(p.fault, warps * kWarpSize);
  int sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    if (warp_index() < warps) mbarrier_arrive(mbarrier(0));
    mbarrier_wait(mbarrier(0), step % 2);
    sum += step + (thread_index() + 1) % num_threads();
  }
  give(p, sum);
}

struct SecondWarpStarves {
  SecondWarpStarves() { sim::starve({sim::Starved::What::kWarp, 1}); }
  ~SecondWarpStarves() { sim::starve({sim::Starved::What::kNobody, 0}); }
};

template <void (*kernel)(const Params), Fault fault>
void run_case(bool broken) {
  std::vector<int> out(kNumBlocks * kNumThreads, -1), wanted(out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    wanted[i] = kSteps * (kSteps - 1) / 2 + kSteps * (static_cast<int>(i + 1) % kNumThreads);
  }
  run(kernel, {{kNumBlocks, 1, 1}, kNumThreads, 64 + 2 * kBufferBytes, kCluster},
      Params{broken ? fault : Fault::kNone, out.data()});
  expect(out, wanted);
}

template <void (*kernel)(const Params), Fault fault>
void run_starved(bool broken) {
  const SecondWarpStarves starves;
  run_case<kernel, fault>(broken);
}

}  // namespace

const std::vector<Case> kMBarrierCases = {
    {"mbarrier_count_too_small", run_case<send_and_arrive, Fault::kCountTooSmall>},
    {"mbarrier_count_too_large", run_case<send_and_arrive, Fault::kCountTooLarge>},
    {"mbarrier_parity", run_case<send_and_arrive, Fault::kParity>},
    {"mbarrier_no_wait", run_case<send_and_arrive, Fault::kNoWait>},
    {"mbarrier_no_fence", run_case<send_and_arrive, Fault::kNoFence>},
    {"mbarrier_plain_access", run_case<send_and_arrive, Fault::kPlainAccess>},
    {"mbarrier_uninitialised", run_case<send_and_arrive, Fault::kUninitialised>},
    {"mbarrier_one_buffer", run_case<send_and_arrive, Fault::kOneBuffer>},
    {"mbarrier_overtaken", run_starved<wait_for_both, Fault::kOvertaken>},
    {"async_count_too_large", run_case<send_async, Fault::kCountTooLarge>},
    {"async_parity", run_case<send_async, Fault::kParity>},
    {"async_no_wait", run_case<send_async, Fault::kNoWait>},
    {"async_no_expect", run_case<send_async, Fault::kNoExpect>},
    {"async_too_many_bytes", run_case<send_async, Fault::kTooManyBytes>},
};

}  // namespace cases
