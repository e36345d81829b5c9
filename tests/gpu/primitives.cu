// Every primitive on known input, its results printed as words: `name word word ...`, in hexadecimal. One source, two
// programs: nvcc makes one that runs on a GPU, and a C++ compiler with tests/sim/include first on its path one that
// runs on the simulator. They have to print the same.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/accesses.cuh"
#include "kernels/cluster_primitives.cuh"
#ifndef __CUDACC__
#include "sim/sim.h"
#endif

namespace lstm_fused {
namespace every {

struct Words {
  const uint32_t* in;
  uint32_t* out;
};

constexpr int kInputs = 4096;
constexpr int kThreads = 128;

template <class V>
LSTM_FUSED_DEVICE V* shared_array() {
  return reinterpret_cast<V*>(shared_memory());
}

// ---- who am I

LSTM_FUSED_KERNEL(kThreads, 1) where_kernel(LSTM_FUSED_PARAMS Words p) {
  const Index block = block_index();
  const int at = ((block.z * 3 + block.y) * 2 + block.x) * num_threads() + thread_index();
  const int values[] = {thread_index(), num_threads(), lane_index(), warp_index(), block.x, block.y, block.z};
  for (int n = 0; n < 7; ++n) p.out[at * 7 + n] = static_cast<uint32_t>(values[n]);
}

// ---- numbers

LSTM_FUSED_KERNEL(kThreads, 1) widen_kernel(LSTM_FUSED_PARAMS Words p) {  // all numbers of 16 bits
  for (int n = block_index().x * num_threads() + thread_index(); n < 65536; n += 32 * num_threads()) {
    p.out[2 * n] = float_to_bits(to_accumulator(float16{static_cast<uint16_t>(n)}));
    p.out[2 * n + 1] = float_to_bits(to_accumulator(bfloat16{static_cast<uint16_t>(n)}));
  }
}

LSTM_FUSED_KERNEL(kThreads, 1) round_kernel(LSTM_FUSED_PARAMS Words p) {
  for (int n = thread_index(); n < kInputs; n += num_threads()) {
    const float x = bits_to_float(p.in[n]);
    p.out[3 * n] = round_to<float16>(x).bits;
    p.out[3 * n + 1] = round_to<bfloat16>(x).bits;
    p.out[3 * n + 2] = round_to_tf32(p.in[n]);
  }
}

LSTM_FUSED_KERNEL(kThreads, 1) round_two_kernel(LSTM_FUSED_PARAMS Words p) {
  for (int n = thread_index(); n < kInputs; n += num_threads()) {
    const float first = bits_to_float(p.in[n]), second = bits_to_float(p.in[(n + 1) % kInputs]);
    p.out[2 * n] = round_two<float16>(first, second);
    p.out[2 * n + 1] = round_two<bfloat16>(first, second);
  }
}

LSTM_FUSED_KERNEL(kThreads, 1) approximate_kernel(LSTM_FUSED_PARAMS Words p) {
  for (int n = thread_index(); n < kInputs; n += num_threads()) {
    const float x = bits_to_float(p.in[n]);
    p.out[3 * n] = float_to_bits(exp2_approximate(x));
    p.out[3 * n + 1] = float_to_bits(reciprocal_approximate(x));
    p.out[3 * n + 2] = float_to_bits(tanh_approximate(x));
  }
}

// ---- matrix products: every lane with words of its own

enum class Arithmetic { kFloat16, kBFloat16, kTf32 };

template <Arithmetic arithmetic>
LSTM_FUSED_KERNEL(kWarpSize, 1)
mma_kernel(LSTM_FUSED_PARAMS Words p) {
  uint32_t a[4], b[2];
  float d[4];
  const uint32_t* mine = p.in + lane_index() * 10;
  for (int n = 0; n < 4; ++n) a[n] = mine[n];
  for (int n = 0; n < 2; ++n) b[n] = mine[4 + n];
  for (int n = 0; n < 4; ++n) d[n] = bits_to_float(mine[6 + n]);
  if constexpr (arithmetic == Arithmetic::kFloat16) mma_float16(d, a, b);
  if constexpr (arithmetic == Arithmetic::kBFloat16) mma_bfloat16(d, a, b);
  if constexpr (arithmetic == Arithmetic::kTf32) mma_tf32(d, a, b);
  for (int n = 0; n < 4; ++n) p.out[lane_index() * 4 + n] = float_to_bits(d[n]);
}

// ---- one warp

LSTM_FUSED_KERNEL(kThreads, 1) warp_kernel(LSTM_FUSED_PARAMS Words p) {
  const uint32_t word = p.in[thread_index()];
  uint32_t* out = p.out + thread_index() * 32;
  for (int bit = 0; bit < 5; ++bit) {
    const uint64_t wide = shuffle_xor(uint64_t{word} << 20 | word, 1 << bit);
    out[4 * bit] = shuffle_xor(word, 1 << bit);
    out[4 * bit + 1] = float_to_bits(shuffle_xor(static_cast<float>(lane_index()), 1 << bit));
    out[4 * bit + 2] = static_cast<uint32_t>(wide);
    out[4 * bit + 3] = static_cast<uint32_t>(wide >> 32);
  }
  for (int n = 0; n < 4; ++n) out[20 + n] = any_lane(lane_index() == n * 11 && warp_index() != n);
  uint32_t* const row = shared_array<uint32_t>() + warp_index() * kWarpSize;
  for (int turn = 0; turn < 8; ++turn) {
    store_shared(row + lane_index(), word + turn);
    warp_barrier();
    out[24 + turn] = load_shared(row + (lane_index() + turn) % kWarpSize);
    warp_barrier();
  }
}

// ---- one block

template <class V>
LSTM_FUSED_DEVICE void reverse(const uint32_t* in, uint32_t* out) {  // one V from the other end of the block
  constexpr int kWords = sizeof(V) / sizeof(uint32_t);
  V mine, theirs;
  memcpy(&mine, in + thread_index() * kWords, sizeof(V));
  store_shared(shared_array<V>() + thread_index(), mine);
  block_barrier();
  theirs = load_shared(shared_array<V>() + num_threads() - 1 - thread_index());
  block_barrier();
  memcpy(out + thread_index() * kWords, &theirs, sizeof(V));
}

LSTM_FUSED_KERNEL(kThreads, 1) shared_kernel(LSTM_FUSED_PARAMS Words p) {
  reverse<uint32_t>(p.in, p.out);
  reverse<uint64_t>(p.in, p.out + kThreads);
  reverse<Vector16>(p.in, p.out + 3 * kThreads);
  bfloat16* const small = shared_array<bfloat16>() + 12345;  // two bytes alone
  store_shared(small + thread_index(), bfloat16{static_cast<uint16_t>(p.in[thread_index()])});
  block_barrier();
  p.out[7 * kThreads + thread_index()] = load_shared(small + (thread_index() ^ 5)).bits;
}

constexpr int kLargeSharedBytes = 96 * 1024;  // more than a launch gets without asking

LSTM_FUSED_KERNEL(kThreads, 1) large_shared_kernel(LSTM_FUSED_PARAMS Words p) {
  uint32_t* const last = shared_array<uint32_t>() + kLargeSharedBytes / 4 - kThreads;
  store_shared(last + thread_index(), p.in[thread_index()]);
  block_barrier();
  p.out[thread_index()] = load_shared(last + (thread_index() + 1) % kThreads);
}

LSTM_FUSED_KERNEL(kThreads, 1) copy_kernel(LSTM_FUSED_PARAMS Words p) {
  Vector16* const shared = shared_array<Vector16>();
  const Vector16* const in = reinterpret_cast<const Vector16*>(p.in);
  Vector16* const out = reinterpret_cast<Vector16*>(p.out);
  for (int group = 0; group < 3; ++group) {
    copy_async_16(shared + group * kThreads + thread_index(), in + group * kThreads + thread_index());
    close_copies();
  }
  wait_for_copies<2>();  // its own copy of the first group
  out[thread_index()] = load_shared(shared + thread_index());
  wait_for_copies<0>();
  block_barrier();
  for (int group = 0; group < 3; ++group)
    out[(group + 1) * kThreads + thread_index()] = load_shared(shared + group * kThreads + (thread_index() ^ 77));
}

LSTM_FUSED_KERNEL(kThreads, 1) named_barrier_kernel(LSTM_FUSED_PARAMS Words p) {
  const int half = thread_index() / 64, lane = thread_index() % 64;  // the two halves of the block on their own
  uint32_t* const row = shared_array<uint32_t>() + half * 64;
  for (int turn = 0; turn < 4 + 3 * half; ++turn) {
    store_shared(row + lane, p.in[thread_index()] + static_cast<uint32_t>(turn));
    named_barrier(1 + half, 64);
    p.out[thread_index()] = load_shared(row + (lane + 33) % 64);
    named_barrier(1 + half, 64);
  }
}

LSTM_FUSED_KERNEL(kThreads, 1) named_arrive_kernel(LSTM_FUSED_PARAMS Words p) {
  const int half = thread_index() / 64, lane = thread_index() % 64;  // the second half reads what the first one writes
  for (int turn = 0; turn < 5; ++turn) {
    if (half == 0) {
      store_shared(shared_array<uint32_t>() + lane, p.in[lane] + static_cast<uint32_t>(turn));
      named_arrive(1, kThreads);
      named_barrier(2, kThreads);
    } else {
      named_barrier(1, kThreads);
      p.out[turn * 64 + lane] = load_shared(shared_array<uint32_t>() + (lane + 33) % 64);
      named_arrive(2, kThreads);
    }
  }
}

// ---- a cluster of four

struct ClusterShared {
  Vector16 vector;
  uint64_t pair;
  uint32_t word;
  uint32_t unused;
  MBarrier barrier;
};

LSTM_FUSED_DEVICE void write_cluster(ClusterShared* shared, uint32_t* out) {
  const Vector16 vector = load_shared(&shared->vector);
  const uint64_t pair = load_shared(&shared->pair);
  for (int n = 0; n < 4; ++n) out[n] = vector.word[n];
  out[4] = static_cast<uint32_t>(pair);
  out[5] = static_cast<uint32_t>(pair >> 32);
  out[6] = load_shared(&shared->word);
}

LSTM_FUSED_KERNEL(kWarpSize, 1) cluster_kernel(LSTM_FUSED_PARAMS Words p) {
  ClusterShared* const shared = shared_array<ClusterShared>();
  const uint32_t* const in = p.in + block_index().x * 8;
  uint32_t* const out = p.out + block_index().x * 16;
  cluster_arrive();
  cluster_wait();
  if (thread_index() == 0) {
    const int next = (cluster_rank() + 1) % cluster_size();
    store_remote(map_shared(&shared->vector, next), Vector16{{in[0], in[1], in[2], in[3]}});
    store_remote(map_shared(&shared->pair, next), uint64_t{in[4]} << 32 | in[5]);
    store_remote(map_shared(&shared->word, next), in[6]);
    out[0] = static_cast<uint32_t>(cluster_rank());
    out[1] = static_cast<uint32_t>(cluster_size());
  }
  cluster_arrive();
  cluster_wait();
  if (thread_index() == 0) write_cluster(shared, out + 2);
}

LSTM_FUSED_KERNEL(kWarpSize, 1) async_store_kernel(LSTM_FUSED_PARAMS Words p) {
  ClusterShared* const shared = shared_array<ClusterShared>();
  uint32_t* const out = p.out + block_index().x * 16;
  if (thread_index() == 0) {
    mbarrier_init(&shared->barrier, 1);
    mbarrier_fence_init();
  }
  cluster_arrive();
  cluster_wait();
  for (int phase = 0; phase < 2; ++phase) {
    const uint32_t* const in = p.in + block_index().x * 8 + phase * 64;
    if (thread_index() == 0) {
      mbarrier_arrive_expect_bytes(&shared->barrier, 28);
      const int next = (cluster_rank() + 1) % cluster_size();
      const RemoteShared<MBarrier> barrier = map_shared(&shared->barrier, next);
      store_remote_async(map_shared(&shared->vector, next), Vector16{{in[0], in[1], in[2], in[3]}}, barrier);
      store_remote_async(map_shared(&shared->pair, next), uint64_t{in[4]} << 32 | in[5], barrier);
      store_remote_async(map_shared(&shared->word, next), in[6], barrier);
    }
    mbarrier_wait(&shared->barrier, phase);
    if (thread_index() == 0) write_cluster(shared, out + 7 * phase);
    cluster_arrive();  // the next phase writes over what was read
    cluster_wait();
  }
}

// Rounds of arrivals from the block itself and, one of them, from the block before.
LSTM_FUSED_KERNEL(kWarpSize, 1) arrive_kernel(LSTM_FUSED_PARAMS Words p) {
  ClusterShared* const shared = shared_array<ClusterShared>();
  if (thread_index() == 0) {
    mbarrier_init(&shared->barrier, 3);
    mbarrier_fence_init();
  }
  cluster_arrive();
  cluster_wait();
  for (int phase = 0; phase < 5; ++phase) {
    const int next = (cluster_rank() + 1) % cluster_size();
    if (thread_index() == 0) {
      store_remote(map_shared(&shared->word, next), p.in[block_index().x * 8 + phase]);
      mbarrier_arrive_remote(map_shared(&shared->barrier, next));
    }
    if (thread_index() == 1 || thread_index() == 2) mbarrier_arrive(&shared->barrier);
    mbarrier_wait(&shared->barrier, phase % 2);
    if (thread_index() == 3) p.out[block_index().x * 5 + phase] = load_shared(&shared->word);
    cluster_arrive();
    cluster_wait();
  }
}

// ---- blocks through global memory: eight of them, all at once on the machine

// In each round a block sends n words, none of them zero, through one of the slots of `ring`, all zero at first. Who
// has read a round knows that all had read the one before, and clears what it sent in that.
template <int n>
LSTM_FUSED_DEVICE void hand_round(uint32_t* ring, const uint32_t* in, uint32_t* out) {
  constexpr int kBlocks = 8, kSlots = 8, kRounds = 3 * kSlots;
  const int block = block_index().x;
  const auto place = [=](int round, int of) {
    return reinterpret_cast<lstm_fused::Words<n>*>(ring) + (round % kSlots) * kBlocks + of;
  };
  const auto send = [=](int round) {
    lstm_fused::Words<n> words;
    for (int i = 0; i < n; ++i) words.word[i] = in[block * 8 + round + i] | 1u;
    store_relaxed_if(round < kRounds, place(round, block), words);
    store_relaxed_if(round < 0, place(round, block), {});  // never
  };
  send(0);
  uint32_t sum = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (int of = 0; of < kBlocks; ++of) {
      lstm_fused::Words<n> words;
      spin_wait([&] {
        words = load_relaxed(place(round, of));
        bool all = true;
        for (int i = 0; i < n; ++i) all &= words.word[i] != 0;
        return all;
      });
      for (int i = 0; i < n; ++i) sum = sum * 31 + words.word[i];
    }
    send(round + 1);
    store_relaxed_if(true, place(round + kSlots - 1, block), lstm_fused::Words<n>{});
    if (round % 2 == 1) fence_gpu();
  }
  *out = sum;
}

LSTM_FUSED_KERNEL(kWarpSize, 1) exchange_kernel(LSTM_FUSED_PARAMS Words p) {
  if (thread_index() != 0) return;
  uint32_t* const out = p.out + block_index().x * 8;
  uint32_t* const rings = p.out + 64;  // behind the results: zeroed memory
  hand_round<1>(rings, p.in, out);
  hand_round<2>(rings + 64, p.in, out + 1);
  hand_round<4>(rings + 192, p.in, out + 2);
  lstm_fused::Words<1>* const met = reinterpret_cast<lstm_fused::Words<1>*>(rings + 448) + block_index().x;
  store_relaxed_if(true, met, {{1}});
  spin_wait([=] { return load_relaxed(met + (block_index().x % 2 == 0 ? 1 : -1)).word[0] != 0; });
  // The vector begins behind 16 bytes: with as many it is not there, with one more it is.
  const char* const row = reinterpret_cast<const char*>(p.in);
  const int left[] = {15 + block_index().x % 2, 17, 32};
  for (int i = 0; i < 3; ++i) out[3 + i] = load_relaxed_within<16>(left[i], row).word[i];
  store_global(out + 6, load_global(p.in + 7));
}

// ---- global memory, only where it is wanted

LSTM_FUSED_KERNEL(kThreads, 1) wanted_kernel(LSTM_FUSED_PARAMS Words p) {  // out: zeroed memory
  using lstm_fused::Vector16;
  const int n = thread_index();
  const uint32_t which = p.in[n];
  store_global_if(which & 1, p.out + n, load_global_if(which & 2, p.in + n + 1));
  uint16_t* const halves = reinterpret_cast<uint16_t*>(p.out + kThreads);
  store_global_if(which & 4, halves + n, load_global_if(which & 8, reinterpret_cast<const uint16_t*>(p.in) + n));
  const Vector16 v = load_global_if(which & 16, reinterpret_cast<const Vector16*>(p.in) + n);
  store_global(p.out + 2 * kThreads + n, v.word[0] + 3 * v.word[1] + 5 * v.word[2] + 7 * v.word[3]);
}

// ---- the programs

#ifdef __CUDACC__

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
bool has_clusters() {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major >= 9;
}
class Memory {
 public:
  explicit Memory(const std::vector<uint32_t>& words) : size_(words.size() * sizeof(uint32_t)) {
    check(cudaMalloc(&data_, size_));
    check(cudaMemcpy(data_, words.data(), size_, cudaMemcpyDefault));
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  uint32_t* data() { return data_; }
  std::vector<uint32_t> words() const {
    std::vector<uint32_t> copy(size_ / sizeof(uint32_t));
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(copy.data(), data_, size_, cudaMemcpyDefault));
    return copy;
  }

 private:
  uint32_t* data_ = nullptr;
  size_t size_;
};

#else

bool has_clusters() { return true; }
class Memory {
 public:
  explicit Memory(const std::vector<uint32_t>& words) : words_(words) {}
  uint32_t* data() { return words_.data(); }
  std::vector<uint32_t> words() const { return words_; }

 private:
  std::vector<uint32_t> words_;
};

#endif

uint32_t random_word() {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>(state >> 32);
}

template <class Make>
std::vector<uint32_t> inputs(Make make) {
  std::vector<uint32_t> words(kInputs);
  for (uint32_t& word : words) word = make();
  return words;
}

// Any float: every exponent, and often close to where 16-bit types and TF32 round.
uint32_t any_float() {
  const uint32_t word = random_word(), choice = random_word() % 4;
  if (choice == 0) return word;
  const uint32_t halfway = choice == 1 ? 0x1000u : choice == 2 ? 0x8000u : 0x1000u << random_word() % 4;
  return ((word & ~0x1fffu) | halfway) + random_word() % 3 - 1;
}
uint32_t moderate_float() {  // sign, 2^-16 to 2^16
  return (random_word() & 0x807fffffu) | (111 + random_word() % 32) << 23;
}
uint32_t unit_float() {  // -1 to 1
  const float x = static_cast<float>(static_cast<int32_t>(random_word())) / 2147483648.0f;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// What a lane gives to mma_kernel: a and b in `element`s of 16 or 32 bits, d as floats.
template <class Element>
std::vector<uint32_t> factors(bool halves, Element element) {
  std::vector<uint32_t> words(kInputs);
  for (int at = 0; at < kInputs; ++at) {
    const bool is_sum = at % 10 >= 6;
    words[at] = is_sum ? unit_float() : halves ? element() | element() << 16 : element();
  }
  return words;
}

void run(const char* name, void (*kernel)(const Words), const Grid& grid, int results,
         const std::vector<uint32_t>& in) {
  constexpr int kScratch = 512;
  Memory from(in), to(std::vector<uint32_t>(results + kScratch));
  if (const int error = launch_kernel(kernel, grid, nullptr, Words{from.data(), to.data()}))
    throw std::runtime_error(std::string(name) + ": launch failed with " + std::to_string(error));
  const std::vector<uint32_t> words = to.words();
  std::printf("%s", name);
  for (int n = 0; n < results; ++n) std::printf(" %x", words[n]);
  std::printf("\n");
}

void run_all() {
  const auto random = inputs(random_word);
  run("where", where_kernel, Grid{{2, 3, 2}, kThreads}, 12 * kThreads * 7, random);
  run("widen", widen_kernel, Grid{{32, 1, 1}, kThreads}, 2 * 65536, random);
  run("round", round_kernel, Grid{{1, 1, 1}, kThreads}, 3 * kInputs, inputs(any_float));
  run("round_two", round_two_kernel, Grid{{1, 1, 1}, kThreads}, 2 * kInputs, inputs(moderate_float));
  run("approximate", approximate_kernel, Grid{{1, 1, 1}, kThreads}, 3 * kInputs, inputs(moderate_float));

  const auto half = [] { return 0x3000u + random_word() % 0xc00u + (random_word() % 2 << 15); };   // 1/8 to 1
  const auto brain = [] { return 0x3e00u + random_word() % 0x180u + (random_word() % 2 << 15); };  // the same
  const Grid warp{{1, 1, 1}, kWarpSize};
  run("mma_float16", mma_kernel<Arithmetic::kFloat16>, warp, 4 * kWarpSize, factors(true, half));
  run("mma_bfloat16", mma_kernel<Arithmetic::kBFloat16>, warp, 4 * kWarpSize, factors(true, brain));
  run("mma_tf32", mma_kernel<Arithmetic::kTf32>, warp, 4 * kWarpSize, factors(false, unit_float));

  const Grid block{{1, 1, 1}, kThreads, 32 * 1024};
  run("warp", warp_kernel, block, 32 * kThreads, random);
  run("shared", shared_kernel, block, 8 * kThreads, random);
  run("large_shared", large_shared_kernel, Grid{{1, 1, 1}, kThreads, kLargeSharedBytes}, kThreads, random);
  run("copy", copy_kernel, block, 16 * kThreads, random);
  run("named_barrier", named_barrier_kernel, block, kThreads, random);
  run("named_arrive", named_arrive_kernel, block, kThreads, random);
  run("wanted", wanted_kernel, block, 3 * kThreads, random);
  run("exchange", exchange_kernel, Grid{{8, 1, 1}, kWarpSize}, 64, random);
  if (!has_clusters()) return;
  const Grid clusters{{8, 1, 1}, kWarpSize, sizeof(ClusterShared), 4};
  run("cluster", cluster_kernel, clusters, 128, random);
  run("async_store", async_store_kernel, clusters, 128, random);
  run("arrive", arrive_kernel, clusters, 40, random);
}

}  // namespace every
}  // namespace lstm_fused

int main(int argc, char** argv) {
#ifndef __CUDACC__  // program [seed [folder with PTX]]
  sim::set_seed(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0);
  if (const char* error = argc > 2 ? sim_use_ptx(argv[2]) : nullptr) {
    std::fprintf(stderr, "%s\n", error);
    return 1;
  }
#else
  (void)argc, (void)argv;
#endif
  try {
    lstm_fused::every::run_all();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
