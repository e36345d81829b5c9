// The twin of csrc/kernels/primitives.cuh: the same names, on the simulator. Found first on the include path, it turns
// a kernel's source into C++ that any compiler takes. What the functions promise stands in the original.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#define LSTM_FUSED_WATCHDOG  // watches where sim::watch_waits says so

#include "element.h"
#include "kernels/launch.h"
#include "sim/device.h"
#include "sim/launch.h"
#include "sim/numbers.h"
#include "sim/ptx/kernels.h"

#define LSTM_FUSED_DEVICE inline
#define LSTM_FUSED_DEVICE_CALL inline
#define LSTM_FUSED_KERNEL(max_threads, min_blocks) void
#define LSTM_FUSED_PARAMS const

namespace lstm_fused {

using sim::Site;

// ---- who am I

constexpr int kWarpSize = sim::kWarpSize;

inline int thread_index() { return sim::self->index; }
inline int num_threads() { return sim::machine->shape().threads; }
inline int lane_index() { return sim::self->lane; }
inline int warp_index() { return thread_index() / kWarpSize; }
inline Index block_index() {
  const sim::Dim& index = sim::self->block->index;
  return {index.x, index.y, index.z};
}

// ---- for the compiler alone

template <class V>
V keep(V x) {
  return x;
}

template <class V>
V* bytes_behind(V* p, uint32_t n, uint32_t bytes) {
  return reinterpret_cast<V*>(reinterpret_cast<uintptr_t>(p) + uint64_t{n} * bytes);
}

// ---- numbers

template <int n>
struct alignas(n * sizeof(uint32_t)) Words {
  uint32_t word[n];
};
using Vector16 = Words<4>;

inline float to_accumulator(float16 x) { return sim::float16_to_float(x.bits); }
inline float to_accumulator(bfloat16 x) { return sim::bfloat16_to_float(x.bits); }
inline float to_accumulator(float x) { return x; }
inline double to_accumulator(double x) { return x; }

template <class T, class Acc>
T round_to(Acc x) {
  return static_cast<T>(x);
}
template <>
inline float16 round_to<float16, float>(float x) {
  return {sim::float_to_float16(x)};
}
template <>
inline bfloat16 round_to<bfloat16, float>(float x) {
  return {sim::float_to_bfloat16(x)};
}

template <class T>
uint32_t round_two(float first, float second) {
  return round_to<T>(first).bits | static_cast<uint32_t>(round_to<T>(second).bits) << 16;
}

inline uint32_t round_to_tf32(uint32_t float_bits) { return sim::float_to_tf32(float_bits); }

inline float bits_to_float(uint32_t bits) { return sim::bits_to_float(bits); }
inline uint32_t float_to_bits(float x) { return sim::float_to_bits(x); }

inline float exp2_approximate(float x) { return sim::exp2_approximate(x); }
inline float reciprocal_approximate(float x) { return sim::reciprocal_approximate(x); }
inline float tanh_approximate(float x) { return sim::tanh_approximate(x); }

// ---- matrix products

inline void mma_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
  sim::mma(sim::Factor::kFloat16, d, a, b, site);
}
inline void mma_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
  sim::mma(sim::Factor::kBFloat16, d, a, b, site);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
  sim::mma(sim::Factor::kTf32, d, a, b, site);
}

// ---- one warp

template <class T>
T shuffle_xor(T value, int lane_mask, Site site = Site::here()) {
  return sim::shuffle_xor(value, lane_mask, site);
}
inline bool any_lane(bool predicate, Site site = Site::here()) { return sim::any_lane(predicate, site); }
inline void warp_barrier(Site site = Site::here()) { sim::warp_barrier(site); }

// ---- one block

inline void block_barrier(Site site = Site::here()) { sim::block_barrier(site); }

inline char* shared_memory() { return sim::shared_memory(); }
template <class V>
V load_shared(const V* p, Site site = Site::here()) {
  V value;
  sim::load_shared(p, &value, sizeof value, site);
  return value;
}
template <class V>
void store_shared(V* p, V value, Site site = Site::here()) {
  sim::store_shared(p, &value, sizeof value, site);
}

inline void copy_async_16(void* shared, const void* global, Site site = Site::here()) {
  sim::copy_async_16(shared, global, site);
}
inline void close_copies() { sim::close_copies(); }
template <int n>
void wait_for_copies(Site site = Site::here()) {
  sim::wait_for_copies(n, site);
}

// ---- for watchdogs

inline uint64_t nanoseconds() { return sim::nanoseconds(); }
inline void give_up(const char* wait, Site site = Site::here()) {
  sim::fault(std::string("has waited too long in ") + wait, site);
}

// ---- the host's side

template <class Params>
int launch_kernel(void (*kernel)(const Params), const Grid& grid, void*, const Params& params) {
  const sim::Shape shape{
      {grid.blocks.x, grid.blocks.y, grid.blocks.z}, grid.threads, grid.shared_bytes, grid.cluster, grid.together};
  static_assert(sim::kTooManyBlocks == kTooManyBlocks);
  const std::function<void()> compiled =
      sim::ptx::compiled(shape, reinterpret_cast<const void*>(kernel), &params, sizeof params);
  return sim::launch(shape, compiled ? compiled : [&] { kernel(params); });
}

}  // namespace lstm_fused
