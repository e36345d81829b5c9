// How fast small products are whose left factor never leaves the registers, and what a block's barrier costs.
#include "kernels/primitives.cuh"
#include "report.cuh"

namespace constants {
namespace {

struct Float16 {
  static constexpr const char* kName = "float16";
  static constexpr int kOperations = 2 * 16 * 8 * 16;
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    lstm_fused::mma_float16(d, a, b);
  }
};
struct BFloat16 {
  static constexpr const char* kName = "bfloat16";
  static constexpr int kOperations = 2 * 16 * 8 * 16;
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    lstm_fused::mma_bfloat16(d, a, b);
  }
};
struct TF32 {
  static constexpr const char* kName = "tf32";
  static constexpr int kOperations = 2 * 16 * 8 * 8;
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    lstm_fused::mma_tf32(d, a, b);
  }
};

// Bits of two half numbers, or one float, between 0 and 1, different for every argument. The compiler cannot see where
// they come from, and so has to keep them.
__device__ uint32_t some_bits(uint32_t n) {
  uint32_t bits = n * 2654435761u & 0x37ff37ffu;
  asm volatile("" : "+r"(bits));
  return bits;
}

template <class Arithmetic, int kThreads, int kFragments, int kAccumulators>
__global__ void __launch_bounds__(kThreads, 1) mma_kernel(int64_t* cycles, float* sink, int rounds) {
  uint32_t a[kFragments][4], b[2];
  float d[kAccumulators][4] = {};
#pragma unroll
  for (int f = 0; f < kFragments; ++f)
#pragma unroll
    for (int e = 0; e < 4; ++e) a[f][e] = some_bits(threadIdx.x * 256 + f * 4 + e + rounds);
#pragma unroll
  for (int e = 0; e < 2; ++e) b[e] = some_bits(threadIdx.x + e + rounds);
  __syncthreads();
  const int64_t start = clock64();
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int f = 0; f < kFragments; ++f) Arithmetic::mma(d[f % kAccumulators], a[f], b);
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
  float sum = 0;
#pragma unroll
  for (int n = 0; n < kAccumulators; ++n) sum += d[n][0] + d[n][1] + d[n][2] + d[n][3];
  if (sum == -1.0f) *sink = sum;
}

template <class Arithmetic, int kThreads, int kFragments, int kAccumulators>
double cycles_per_mma(const Device& device) {  // of one warp
  constexpr int kRounds = 2000;
  Array<int64_t> cycles(device.num_sms);
  Array<float> sink(1);
  const double all = cycles_of(cycles, [&] {
    mma_kernel<Arithmetic, kThreads, kFragments, kAccumulators>
        <<<device.num_sms, kThreads>>>(cycles.data(), sink.data(), kRounds);
  });
  return all / (double{kRounds} * kFragments);
}

template <class Arithmetic, int kThreads, int kFragments>
void report_rate(const Device& device) {
  constexpr int kWarps = kThreads / 32;
  const double per_cycle =
      kWarps * Arithmetic::kOperations / cycles_per_mma<Arithmetic, kThreads, kFragments, 8>(device);
  report(std::string("mma ") + Arithmetic::kName + ", " + std::to_string(kWarps) + " warps, " +
             std::to_string(kFragments) + " fragments each in registers",
         per_cycle, "operations per cycle and SM", "mma.sync rate at N = 8 with A in registers");
}

template <class Arithmetic>
void report_arithmetic(const Device& device) {
  report_rate<Arithmetic, 128, 40>(device);
  report_rate<Arithmetic, 256, 8>(device);
  report_rate<Arithmetic, 256, 40>(device);
  report_rate<Arithmetic, 512, 16>(device);
  report(std::string("mma ") + Arithmetic::kName + ", each waits for the one before",
         cycles_per_mma<Arithmetic, 32, 8, 1>(device), "cycles", "depth of a step's chain of products over k");
}

__global__ void barrier_kernel(int64_t* cycles, int rounds) {
  __syncthreads();
  const int64_t start = clock64();
  for (int round = 0; round < rounds; ++round) __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
}

}  // namespace

void measure_matrix_products(const Device& device) {
  report_arithmetic<Float16>(device);
  report_arithmetic<BFloat16>(device);
  report_arithmetic<TF32>(device);
  constexpr int kRounds = 2000;
  for (int threads : {128, 256, 512, 1024}) {
    Array<int64_t> cycles(device.num_sms);
    const double all = cycles_of(cycles, [&] { barrier_kernel<<<device.num_sms, threads>>>(cycles.data(), kRounds); });
    report("block barrier, " + std::to_string(threads) + " threads", all / kRounds, "cycles",
           "what a step of block costs beyond its product");
  }
}

}  // namespace constants
