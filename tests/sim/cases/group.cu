// Faults between blocks that meet in global memory. In every step each thread sends two words to the threads of the
// same index in all blocks, and gives the sum of what it got.
#include "case.h"
#include "kernels/cluster_primitives.cuh"

namespace cases {
namespace {

constexpr int kNumThreads = 64, kNumBlocks = 3, kSteps = 20, kSlots = 8;
constexpr uint32_t kMissing = 0xffffffff;

enum class Fault {
  kNone,
  kOneWordOfTwo,
  kNotCleared,
  kNoFence,
  kTwoSlots,
  kMisaligned,
  kPlainStore,
  kPlainLoad,
  kDataBehindWords,
  kNoRoom
};

struct Params {
  Fault fault;
  uint32_t* words;  // (kSlots, kNumBlocks, kNumThreads) pairs and one more word, all missing
  uint32_t* data;   // (kSteps, kNumBlocks, kNumThreads)
  int* out;         // (kNumBlocks, kNumThreads)
};

// Words say themselves whether they are there. Who sends step n + 1 has got n of all others, who had got n - 1 before
// they sent it: its own of n - 1 is cleared. Who looks there again comes to a fence before, and so does who cleared.
LSTM_FUSED_KERNEL(64, 1) words(LSTM_FUSED_PARAMS Params p) {
  const int block = block_index().x;
  const auto place = [&](int step, int of) {
    const int slot = step % (p.fault == Fault::kTwoSlots ? 2 : kSlots);
    const int pair = (slot * kNumBlocks + of) * num_threads() + thread_index();
    return reinterpret_cast<Words<2>*>(p.words + 2 * pair + (p.fault == Fault::kMisaligned));
  };
  const auto datum = [&](int step, int of) {
    return p.data + (step * kNumBlocks + of) * num_threads() + thread_index();
  };
  const auto send = [&](int step) {
    const Words<2> pair = {{static_cast<uint32_t>(step), static_cast<uint32_t>(thread_index())}};
    if (p.fault == Fault::kDataBehindWords) store_global(datum(step, block), pair.word[0]);
    p.fault == Fault::kPlainStore ? store_global(place(step, block), pair)
                                  : store_relaxed_if(true, place(step, block), pair);
  };
  send(0);
  uint32_t sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    for (int of = 0; of < kNumBlocks; ++of) {
      Words<2> pair;
      spin_wait([&] {
        pair = load_relaxed(place(step, of));
        return pair.word[0] != kMissing && (pair.word[1] != kMissing || p.fault == Fault::kOneWordOfTwo);
      });
      if (p.fault == Fault::kPlainLoad) pair = load_global(place(step, of));
      if (p.fault == Fault::kDataBehindWords) pair.word[0] = load_global(datum(step, of));
      sum += pair.word[0] + pair.word[1];
    }
    if (step + 1 < kSteps) send(step + 1);
    store_relaxed_if(p.fault != Fault::kNotCleared, place(step + kSlots - 1, block), {{kMissing, kMissing}});
    if (step % 2 == 1 && p.fault != Fault::kNoFence) fence_gpu();
  }
  p.out[block * num_threads() + thread_index()] = static_cast<int>(sum);
}

template <Fault fault>
void run_case(bool broken) {
  std::vector<uint32_t> words(2 * kSlots * kNumBlocks * kNumThreads + 1, kMissing);
  std::vector<uint32_t> data(kSteps * kNumBlocks * kNumThreads, 0);
  std::vector<int> out(kNumBlocks * kNumThreads, -1), wanted(out.size());
  for (size_t i = 0; i < out.size(); ++i)
    wanted[i] = kNumBlocks * (kSteps * (kSteps - 1) / 2 + kSteps * (static_cast<int>(i) % kNumThreads));
  sim::set_max_resident_blocks(broken && fault == Fault::kNoRoom ? kNumBlocks - 1 : kNumBlocks);
  run(cases::words, {{kNumBlocks, 1, 1}, kNumThreads},
      Params{broken ? fault : Fault::kNone, words.data(), data.data(), out.data()});
  expect(out, wanted);
}

}  // namespace

const std::vector<Case> kGroupCases = {
    {"one_word_of_two", run_case<Fault::kOneWordOfTwo>},
    {"words_not_cleared", run_case<Fault::kNotCleared>},
    {"no_fence", run_case<Fault::kNoFence>},
    {"words_in_two_slots", run_case<Fault::kTwoSlots>},
    {"words_misaligned", run_case<Fault::kMisaligned>},
    {"words_stored_plainly", run_case<Fault::kPlainStore>},
    {"words_loaded_plainly", run_case<Fault::kPlainLoad>},
    {"data_behind_words", run_case<Fault::kDataBehindWords>},
    {"no_room_for_a_block", run_case<Fault::kNoRoom>},
};

}  // namespace cases
