// Everything the kernels ask of the machine: each PTX instruction, barrier, shuffle and access to shared memory has its
// name here and nowhere else. tests/sim has a second header of this path, with the same names and the documented
// semantics on the host, so that the same kernel source runs on any CPU.
// Collective functions (barriers, mma, shuffles) are called by all 32 lanes of a warp.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

#include "element.h"
#include "kernels/start.h"

#define LSTM_FUSED_DEVICE __device__ __forceinline__
#define LSTM_FUSED_DEVICE_CALL __device__ __noinline__  // rarely run and large
#define LSTM_FUSED_KERNEL(max_threads, min_blocks) __global__ void __launch_bounds__(max_threads, min_blocks)
#define LSTM_FUSED_PARAMS __grid_constant__ const  // a struct of parameters, read where it lies

namespace lstm_fused {

// ---- who am I

constexpr int kWarpSize = 32;

LSTM_FUSED_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
LSTM_FUSED_DEVICE int num_threads() { return static_cast<int>(blockDim.x); }
LSTM_FUSED_DEVICE int lane_index() { return thread_index() % kWarpSize; }
LSTM_FUSED_DEVICE int warp_index() { return thread_index() / kWarpSize; }
LSTM_FUSED_DEVICE Index block_index() {
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
}

// ---- for the compiler alone

// x, formed here and kept, where it would rather form it anew, or later.
template <class V>
LSTM_FUSED_DEVICE V keep(V x) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8);
  if constexpr (sizeof(V) == 4)
    asm volatile("" : "+r"(x));
  else
    asm volatile("" : "+l"(x));
  return x;
}

// `n` times `bytes` behind p, in one instruction.
template <class V>
LSTM_FUSED_DEVICE V* bytes_behind(V* p, uint32_t n, uint32_t bytes) {
  asm("mad.wide.u32 %0, %1, %2, %0;" : "+l"(p) : "r"(n), "r"(bytes));
  return p;
}

// ---- numbers

template <int n>
struct alignas(n * sizeof(uint32_t)) Words {
  uint32_t word[n];
};
using Vector16 = Words<4>;

LSTM_FUSED_DEVICE float to_accumulator(float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
LSTM_FUSED_DEVICE float to_accumulator(bfloat16 x) {  // one instruction, where a shift is of a word that is made first
  float y;
  asm("mov.b32 %0, {%1, %2};" : "=f"(y) : "h"(uint16_t{0}), "h"(x.bits));
  return y;
}
LSTM_FUSED_DEVICE float to_accumulator(float x) { return x; }
LSTM_FUSED_DEVICE double to_accumulator(double x) { return x; }

// To the nearest, ties to even. float16 overflows to infinity.
template <class T, class Acc>
LSTM_FUSED_DEVICE T round_to(Acc x) {
  return static_cast<T>(x);
}
template <>
LSTM_FUSED_DEVICE float16 round_to<float16, float>(float x) {
  float16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
LSTM_FUSED_DEVICE bfloat16 round_to<bfloat16, float>(float x) {
  bfloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// Two at once, the first in the lower half.
template <class T>
LSTM_FUSED_DEVICE uint32_t round_two(float first, float second);
template <>
LSTM_FUSED_DEVICE uint32_t round_two<float16>(float first, float second) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
  return y;
}
template <>
LSTM_FUSED_DEVICE uint32_t round_two<bfloat16>(float first, float second) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
  return y;
}

// The float whose upper 19 bits mma_tf32 reads, rounded to the nearest, ties away from zero.
LSTM_FUSED_DEVICE uint32_t round_to_tf32(uint32_t float_bits) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(float_bits)));
  return y;
}

LSTM_FUSED_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
LSTM_FUSED_DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }

// 2^x and 1 / x, relative error about 2^-22; numbers below 2^-126 are zero, of x and of the result.
LSTM_FUSED_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LSTM_FUSED_DEVICE float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Relative error up to 2^-11, near zero too; that of 0 and of infinity is exact.
LSTM_FUSED_DEVICE float tanh_approximate(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- matrix products: D (16, 8) += A (16, K) B (K, 8), one warp. With group = lane / 4 and pair = lane % 4:
// d[0..1]: row group, columns 2 pair, 2 pair + 1; d[2..3]: row group + 8, the same columns.
// 16 bit, K = 16: a[0]: row group, k = 2 pair, 2 pair + 1; a[1]: row group + 8; a[2], a[3]: the same rows, k + 8;
//                 b[0]: column group, k = 2 pair, 2 pair + 1; b[1]: k + 8.
// tf32, K = 8:    a[0]: row group, k = pair; a[1]: row group + 8; a[2], a[3]: k + 4; b[0]: column group, k = pair;
//                 b[1]: k + 4.

LSTM_FUSED_DEVICE void mma_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LSTM_FUSED_DEVICE void mma_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LSTM_FUSED_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- one warp

template <class T>
LSTM_FUSED_DEVICE T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}
LSTM_FUSED_DEVICE bool any_lane(bool predicate) { return __any_sync(0xffffffffu, predicate); }
LSTM_FUSED_DEVICE void warp_barrier() { __syncwarp(); }

// ---- one block

LSTM_FUSED_DEVICE void block_barrier() { __syncthreads(); }

// The dynamic shared memory of the launch, 128-byte aligned. Read and written by load_shared and store_shared alone;
// its bytes are undefined until written.
LSTM_FUSED_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char lstm_fused_shared[];
  return lstm_fused_shared;
}
template <class V>
LSTM_FUSED_DEVICE V load_shared(const V* p) {
  return *p;
}
template <class V>
LSTM_FUSED_DEVICE void store_shared(V* p, V value) {
  *p = value;
}

// 16 aligned bytes from global to shared memory; they have arrived in the calling thread's view after
// wait_for_copies<n>() when at most n younger groups were closed by close_copies(), and in the block's view after a
// barrier behind that.
LSTM_FUSED_DEVICE void copy_async_16(void* shared, const void* global) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
LSTM_FUSED_DEVICE void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n>
LSTM_FUSED_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// ---- for watchdogs

// A clock of the whole GPU.
LSTM_FUSED_DEVICE uint64_t nanoseconds() {
  uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}
// Ends the launch with a message and an error.
LSTM_FUSED_DEVICE void give_up(const char* wait) {
  printf("lstm_fused: block (%u, %u, %u) thread %u has waited too long in %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
         threadIdx.x, wait);
  __trap();
}

// ---- the host's side

// kernel<<<...>>>(params) on `stream`, a cudaStream_t. Returns a cudaError_t.
template <class Params>
int launch_kernel(void (*kernel)(const Params), const Grid& grid, void* stream, const Params& params) {
  return start_kernel(reinterpret_cast<const void*>(kernel), grid, stream, &params);
}

}  // namespace lstm_fused
