// What it costs to tell another SM something through L2.
#include "kernels/cluster_primitives.cuh"
#include "report.cuh"

namespace constants {
namespace {

using namespace lstm_fused;
using Word = uint64_t;

constexpr int kTurns = 2000;
constexpr size_t kLine = 16;  // words of a 128-byte line: each flag has its own

// Blocks 0 and `partner` tell each other the number of the turn.
template <bool kTagged>
__global__ void ping_pong_kernel(Word* words, int partner, int64_t* cycles, int* late) {
  const bool first = blockIdx.x == 0;
  if (!first && static_cast<int>(blockIdx.x) != partner) return;
  Word* const mine = words + (first ? 0 : kLine);
  const Word* const theirs = words + (first ? kLine : 0);
  const auto tell = [&](Word turn) { kTagged ? store_relaxed(mine, turn) : store_release(mine, turn); };
  const Deadline deadline;
  const int64_t start = clock64();
  for (Word turn = 1; turn <= kTurns; ++turn) {
    if (first) tell(turn);
    while ((kTagged ? load_relaxed(theirs) : load_acquire(theirs)) < turn) {
      if (deadline.passed()) {
        *late = 1;
        return;
      }
    }
    if (!first) tell(turn);
  }
  if (first) *cycles = clock64() - start;
}

// Until the word is large enough; false where that takes too long.
__device__ bool wait_for(const Word* word, Word least, const Deadline& deadline) {
  while (load_acquire(word) < least) {
    if (deadline.passed()) return false;
  }
  return true;
}

// Every block raises its flag and waits until those of all are up.
__global__ void all_flags_kernel(Word* words, int, int64_t* cycles, int* late) {
  const Deadline deadline;
  const int64_t start = clock64();
  bool good = true;
  for (Word turn = 1; turn <= kTurns && good; ++turn) {
    __syncthreads();
    if (threadIdx.x == 0) store_release(words + blockIdx.x * kLine, turn);
    if (threadIdx.x < gridDim.x) good = wait_for(words + threadIdx.x * kLine, turn, deadline);
    good = __syncthreads_and(good);
  }
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
  if (!good) *late = 1;
}

// One counter for all.
__global__ void counter_kernel(Word* words, int, int64_t* cycles, int* late) {
  const Deadline deadline;
  const int64_t start = clock64();
  bool good = true;
  for (Word turn = 1; turn <= kTurns && good; ++turn) {
    __syncthreads();
    if (threadIdx.x == 0) {
      atomic_add_release(words, Word{1});
      good = wait_for(words, turn * gridDim.x, deadline);
    }
    good = __syncthreads_and(good);
  }
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
  if (!good) *late = 1;
}

using Kernel = void (*)(Word*, int, int64_t*, int*);

// Nanoseconds of a turn. The launch is cooperative: an error where not all blocks run at once, no endless wait.
double turn_of_grid(const Device& device, Kernel kernel, int blocks, int threads, int partner, int timed_blocks) {
  Array<Word> words(kLine * blocks);
  Array<int64_t> cycles(timed_blocks);
  Array<int> late(1);
  Word* words_data = words.data();
  int64_t* cycles_data = cycles.data();
  int* late_data = late.data();
  void* parameters[] = {&words_data, &partner, &cycles_data, &late_data};
  const double all = cycles_of(cycles, [&] {
    CHECK(cudaMemset(words.data(), 0, words.size() * sizeof(Word)));
    CHECK(cudaLaunchCooperativeKernel(kernel, dim3(blocks), dim3(threads), parameters, 0, nullptr));
  });
  if (late.host()[0] != 0) throw std::runtime_error("a wait between blocks did not end");
  return all / kTurns / device.clock_ghz;
}

}  // namespace

void measure_exchange(const Device& device) {
  for (bool tagged : {true, false}) {
    const Kernel kernel = tagged ? ping_pong_kernel<true> : ping_pong_kernel<false>;
    std::vector<double> hops;
    for (int partner = 1; partner < device.num_sms; partner += 10)
      hops.push_back(turn_of_grid(device, kernel, device.num_sms, 1, partner, 1) / 2);
    const std::string name =
        tagged ? "L2 hop, 8 bytes that carry their epoch, " : "L2 hop, flag with release and acquire, ";
    const double mean = std::accumulate(hops.begin(), hops.end(), 0.0) / static_cast<double>(hops.size());
    const char* question = "L2 hop latency: what a step of group waits";
    report(name + "nearest partner", *std::min_element(hops.begin(), hops.end()), "ns", question);
    report(name + "mean partner", mean, "ns", question);
    report(name + "farthest partner", *std::max_element(hops.begin(), hops.end()), "ns", question);
  }
  for (int blocks : {16, 32, 64, 128}) {
    if (blocks > device.num_sms) continue;
    const std::string text = ", " + std::to_string(blocks) + " blocks";
    report("exchange of flags" + text, turn_of_grid(device, all_flags_kernel, blocks, 256, 0, blocks), "ns",
           "a step's synchronisation in group");
    report("exchange by one counter" + text, turn_of_grid(device, counter_kernel, blocks, 256, 0, blocks), "ns",
           "the same by a counter");
  }
}

}  // namespace constants
