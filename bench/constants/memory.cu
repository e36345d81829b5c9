// Latency and bandwidth of shared memory, L2 and device memory.
#include <random>

#include "report.cuh"

namespace constants {
namespace {

constexpr int kHops = 4096;

// Each load's address is the value of the load before.
__global__ void chase_shared_kernel(int64_t* cycles, uint32_t* sink) {
  __shared__ uint32_t next[1024];
  for (int n = 0; n < 1024; ++n) next[n] = (n * 5 + 1) % 1024;
  uint32_t at = 0;
  const int64_t start = clock64();
  for (int hop = 0; hop < kHops; ++hop) at = static_cast<volatile uint32_t*>(next)[at];
  *cycles = clock64() - start;
  *sink = at;
}

__global__ void chase_l2_kernel(const uint32_t* next, int64_t* cycles, uint32_t* sink) {
  uint32_t at = 0;
  int64_t start = 0;
  for (int pass = 0; pass < 2; ++pass) {  // the first brings the lines into L2
    start = clock64();
    for (int hop = 0; hop < kHops; ++hop) at = __ldcg(next + at);
  }
  *cycles = clock64() - start;
  *sink = at;
}

__global__ void read_shared_kernel(int64_t* cycles, uint32_t* sink, int rounds) {
  extern __shared__ uint4 vectors[];
  constexpr int kVectors = 2048;  // 32 KiB
  for (int n = threadIdx.x; n < kVectors; n += blockDim.x) vectors[n] = make_uint4(n, n, n, n);
  __syncthreads();
  uint32_t sum = 0;
  const int64_t start = clock64();
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      uint32_t a, b, c, d;
      const auto address =
          static_cast<uint32_t>(__cvta_generic_to_shared(vectors + (threadIdx.x + n * blockDim.x) % kVectors));
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(address));
      sum += a ^ b ^ c ^ d;
    }
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
  if (sum == 1) *sink = sum;
}

__global__ void read_global_kernel(const uint4* vectors, int64_t count, int passes, uint32_t* sink) {
  uint32_t sum = 0;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int pass = 0; pass < passes; ++pass)
#pragma unroll 8
    for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < count; n += stride) {
      const uint4 v = __ldcg(vectors + n);
      sum += v.x ^ v.y ^ v.z ^ v.w;
    }
  if (sum == 1) *sink = sum;
}

// One cycle through `lines` lines of 128 bytes, in random order.
std::vector<uint32_t> random_cycle(uint32_t lines) {
  std::vector<uint32_t> order(lines);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin() + 1, order.end(), std::mt19937(0));
  std::vector<uint32_t> next(lines * 32);
  for (uint32_t n = 0; n < lines; ++n) next[order[n] * 32] = order[(n + 1) % lines] * 32;
  return next;
}

}  // namespace

void measure_memory(const Device& device) {
  Array<int64_t> one(1), per_sm(device.num_sms);
  Array<uint32_t> sink(1), chain(kHops * 32);
  report("shared memory, a load that waits for the one before",
         cycles_of(one, [&] { chase_shared_kernel<<<1, 1>>>(one.data(), sink.data()); }) / kHops, "cycles",
         "reading h at the start of a step of block");
  constexpr int kRounds = 500;
  for (int threads : {256, 512}) {
    const double cycles = cycles_of(
        per_sm, [&] { read_shared_kernel<<<device.num_sms, threads, 32768>>>(per_sm.data(), sink.data(), kRounds); });
    report("shared memory, loads of 16 bytes, " + std::to_string(threads) + " threads",
           kRounds * 8.0 * threads * 16 / cycles, "bytes per cycle and SM",
           "price of the part of W_hh that the registers do not hold");
  }
  chain.fill(random_cycle(kHops));
  report("L2, a load that waits for the one before",
         cycles_of(one, [&] { chase_l2_kernel<<<1, 1>>>(chain.data(), one.data(), sink.data()); }) / kHops, "cycles",
         "reading x W_ih^T of the coming step, and h in group");

  const size_t in_l2 = device.l2_bytes / 4 / 16;  // vectors; a quarter, as L2 may be two halves that copy each other
  Array<uint4> vectors(in_l2);
  constexpr int kPasses = 20;
  const double seconds = seconds_of([&] {
    read_global_kernel<<<device.num_sms * 2, 1024>>>(vectors.data(), static_cast<int64_t>(in_l2), kPasses, sink.data());
  });
  report("L2, reading", kPasses * static_cast<double>(in_l2) * 16 / seconds * 1e-9, "GB/s",
         "W_hh from L2 once per step, in step and group");
  const size_t large = size_t{1} << 30;
  Array<char> from(large), to(large);
  const double copy_seconds =
      seconds_of([&] { CHECK(cudaMemcpyAsync(to.data(), from.data(), large, cudaMemcpyDeviceToDevice)); });
  report("device memory, copying, bytes read and written", 2.0 * static_cast<double>(large) / copy_seconds * 1e-9,
         "GB/s", "floor of everything that reads or writes (T, B, 4H)");
}

}  // namespace constants
