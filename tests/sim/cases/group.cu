// Faults between blocks that meet in global memory. In every step a thread passes a number to the thread of the same
// index in the next block, and gives the sum of what it got.
#include "case.h"
#include "kernels/cluster_primitives.cuh"

namespace cases {
namespace {

constexpr int kNumThreads = 64, kNumBlocks = 3, kSteps = 5;

enum class Fault {
  kNone,
  kRelaxedStore,
  kRelaxedLoad,
  kNoBarrierBefore,
  kNoBarrierBehind,
  kTooFewArrivals,
  kStaleTag,
  kOneBuffer,
  kTagApart,
  kNoRoom
};

struct Params {
  Fault fault;
  uint32_t* data;   // (kSteps, kNumBlocks, kNumThreads)
  uint32_t* flags;  // (kNumBlocks,), zero
  uint64_t* words;  // (2, kNumBlocks, kNumThreads), zero
  int* out;         // (kNumBlocks, kNumThreads)
};

LSTM_FUSED_DEVICE int own(int block) { return block * num_threads() + thread_index(); }
LSTM_FUSED_DEVICE uint32_t number(int step) { return static_cast<uint32_t>(step + thread_index()); }

// A flag per block says up to which step its data are there.
LSTM_FUSED_KERNEL(64, 1) flags(LSTM_FUSED_PARAMS Params p) {
  const int block = block_index().x, from = (block + 1) % kNumBlocks;
  uint32_t sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    uint32_t* data = p.data + step * kNumBlocks * num_threads();
    const uint32_t ready = static_cast<uint32_t>(step + 1);
    store_global(data + own(block), number(step));
    if (p.fault != Fault::kNoBarrierBefore) block_barrier();
    if (thread_index() == 0) {
      p.fault == Fault::kRelaxedStore ? store_relaxed(p.flags + block, ready) : store_release(p.flags + block, ready);
      spin_wait([&] {
        const uint32_t* flag = p.flags + from;
        return (p.fault == Fault::kRelaxedLoad ? load_relaxed(flag) : load_acquire(flag)) >= ready;
      });
    }
    if (p.fault != Fault::kNoBarrierBehind) block_barrier();
    sum += load_global(data + own(from));
  }
  p.out[own(block)] = static_cast<int>(sum);
}

// One counter of arrivals for all.
LSTM_FUSED_KERNEL(64, 1) counter(LSTM_FUSED_PARAMS Params p) {
  const int block = block_index().x;
  uint32_t sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    uint32_t* data = p.data + step * kNumBlocks * num_threads();
    store_global(data + own(block), number(step));
    block_barrier();
    if (thread_index() == 0) {
      atomic_add_release(p.flags, 1);
      const uint32_t all = static_cast<uint32_t>((step + 1) * kNumBlocks) - (p.fault == Fault::kTooFewArrivals);
      spin_wait([&] { return load_acquire(p.flags) >= all; });
    }
    block_barrier();
    sum += load_global(data + own((block + 1) % kNumBlocks));
  }
  p.out[own(block)] = static_cast<int>(sum);
}

// A word carries its number and the step it belongs to, so it needs no order with any other. The first two blocks send
// one another words, in two buffers in turns: who sends step n + 2 has got n + 1, which was sent after n had come.
LSTM_FUSED_KERNEL(64, 1) tags(LSTM_FUSED_PARAMS Params p) {
  const int block = block_index().x, from = (block + 1) % 2;
  if (block == 2) {  // without a partner
    p.out[own(block)] = kSteps * (kSteps - 1) / 2 + kSteps * thread_index();
    return;
  }
  uint64_t sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    uint64_t* words = p.words + (p.fault == Fault::kOneBuffer ? 0 : step % 2) * kNumBlocks * num_threads();
    const uint64_t tag = p.fault == Fault::kStaleTag ? 1 : static_cast<uint64_t>(step + 1);
    if (p.fault == Fault::kTagApart) {
      uint32_t* halves = reinterpret_cast<uint32_t*>(words + own(block));
      store_relaxed(halves, number(step));
      store_relaxed(halves + 1, static_cast<uint32_t>(tag));
    } else {
      store_relaxed(words + own(block), tag << 32 | number(step));
    }
    uint64_t word = 0;
    spin_wait([&] {
      word = load_relaxed(words + own(from));
      return word >> 32 == tag;
    });
    sum += word & 0xffffffffu;
  }
  p.out[own(block)] = static_cast<int>(sum);
}

template <void (*kernel)(const Params), Fault fault>
void run_case(bool broken) {
  std::vector<uint32_t> data(kSteps * kNumBlocks * kNumThreads, 0xdead), block_flags(kNumBlocks, 0);
  std::vector<uint64_t> words(2 * kNumBlocks * kNumThreads, 0);
  std::vector<int> out(kNumBlocks * kNumThreads, -1), wanted(out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    wanted[i] = kSteps * (kSteps - 1) / 2 + kSteps * (static_cast<int>(i) % kNumThreads);
  }
  sim::set_max_resident_blocks(broken && fault == Fault::kNoRoom ? kNumBlocks - 1 : kNumBlocks);
  run(kernel, {{kNumBlocks, 1, 1}, kNumThreads},
      Params{broken ? fault : Fault::kNone, data.data(), block_flags.data(), words.data(), out.data()});
  expect(out, wanted);
}

}  // namespace

const std::vector<Case> kGroupCases = {
    {"flag_stored_relaxed", run_case<flags, Fault::kRelaxedStore>},
    {"flag_loaded_relaxed", run_case<flags, Fault::kRelaxedLoad>},
    {"no_barrier_before_flag", run_case<flags, Fault::kNoBarrierBefore>},
    {"no_barrier_behind_flag", run_case<flags, Fault::kNoBarrierBehind>},
    {"no_room_for_a_block", run_case<flags, Fault::kNoRoom>},
    {"too_few_arrivals", run_case<counter, Fault::kTooFewArrivals>},
    {"stale_tag", run_case<tags, Fault::kStaleTag>},
    {"tags_in_one_buffer", run_case<tags, Fault::kOneBuffer>},
    {"tag_apart_from_number", run_case<tags, Fault::kTagApart>},
};

}  // namespace cases
