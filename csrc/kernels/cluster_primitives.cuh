// More of the machine, in the manner of primitives.cuh: barriers of a part of a block and of a cluster, shared memory
// of other blocks, mbarriers, and global memory that the blocks of one launch exchange data through. Clusters and
// mbarriers need sm_90; code for older architectures has the functions and must not call them.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/primitives.cuh"
#include "kernels/watchdog.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define LSTM_FUSED_SM90_ASM(...) asm volatile(__VA_ARGS__)
#else
#define LSTM_FUSED_SM90_ASM(...) __trap()
#endif

namespace lstm_fused {

LSTM_FUSED_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// ---- a part of a block

// A barrier of `threads` threads, in whole warps: those that come to barrier `id`, 1 to 15.
LSTM_FUSED_DEVICE void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Comes to it and does not wait: those who do see what the thread did before.
LSTM_FUSED_DEVICE void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- a cluster

LSTM_FUSED_DEVICE int cluster_rank() {
  int rank = 0;
  LSTM_FUSED_SM90_ASM("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
LSTM_FUSED_DEVICE int cluster_size() {
  int size = 0;
  LSTM_FUSED_SM90_ASM("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

// The barrier of all threads of a cluster in two halves: what a thread did before it arrives (release) is seen by those
// that have waited (acquire). Shared memory of another block may be touched after the first one and before the last.
LSTM_FUSED_DEVICE void cluster_arrive() { LSTM_FUSED_SM90_ASM("barrier.cluster.arrive.release;" :: : "memory"); }
LSTM_FUSED_DEVICE void cluster_wait() { LSTM_FUSED_SM90_ASM("barrier.cluster.wait.acquire;" :: : "memory"); }

// A place in the shared memory of a block of the cluster.
template <class V>
struct RemoteShared {
  uint32_t address;
  LSTM_FUSED_DEVICE RemoteShared operator+(int n) const { return {address + n * static_cast<uint32_t>(sizeof(V))}; }
};

// Where p of this block's shared memory lies in block `rank`.
template <class V>
LSTM_FUSED_DEVICE RemoteShared<V> map_shared(V* p, int rank) {
  RemoteShared<V> remote{0};
  LSTM_FUSED_SM90_ASM("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote.address) : "r"(shared_address(p)),
                      "r"(rank));
  return remote;
}

// V has 4, 8 or 16 bytes.
template <class V>
LSTM_FUSED_DEVICE void store_remote(RemoteShared<V> p, V value) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
  uint32_t word[sizeof(V) / 4];
  memcpy(word, &value, sizeof value);
  if constexpr (sizeof(V) == 4) {
    LSTM_FUSED_SM90_ASM("st.shared::cluster.b32 [%0], %1;" ::"r"(p.address), "r"(word[0]) : "memory");
  } else if constexpr (sizeof(V) == 8) {
    LSTM_FUSED_SM90_ASM("st.shared::cluster.v2.b32 [%0], {%1, %2};" ::"r"(p.address), "r"(word[0]),
                        "r"(word[1]) : "memory");
  } else {
    LSTM_FUSED_SM90_ASM("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(p.address), "r"(word[0]),
                        "r"(word[1]), "r"(word[2]), "r"(word[3]) : "memory");
  }
}

// ---- mbarrier: goes from phase to phase. A phase ends when as many arrivals have come as mbarrier_init said, and all
// bytes that were expected in it. Arriving releases what the thread did before; waiting acquires it.

struct alignas(8) MBarrier {  // in shared memory; read and written by these functions alone
  uint64_t state;
};

// By one thread. A block barrier must follow before other threads use it, and the fence, by the same thread, and a
// cluster barrier before other blocks do.
LSTM_FUSED_DEVICE void mbarrier_init(MBarrier* barrier, int arrivals) {
  LSTM_FUSED_SM90_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                      "r"(arrivals) : "memory");
}
LSTM_FUSED_DEVICE void mbarrier_fence_init() {
  LSTM_FUSED_SM90_ASM("fence.mbarrier_init.release.cluster;" :: : "memory");
}

LSTM_FUSED_DEVICE void mbarrier_arrive(MBarrier* barrier) {
  LSTM_FUSED_SM90_ASM("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
LSTM_FUSED_DEVICE void mbarrier_arrive_expect_bytes(MBarrier* barrier, int bytes) {
  LSTM_FUSED_SM90_ASM(
      "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes) : "memory");
}
LSTM_FUSED_DEVICE void mbarrier_arrive_remote(RemoteShared<MBarrier> barrier) {
  LSTM_FUSED_SM90_ASM("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier.address) : "memory");
}

// Until the phase of this parity has ended: 0 for the first, 1 for the second, and so on. With the parity of the phase
// before the one under way it does not wait.
LSTM_FUSED_DEVICE void mbarrier_wait(MBarrier* barrier, int parity) {
  const Watchdog watchdog;
  uint32_t done = 0;
  while (true) {
    LSTM_FUSED_SM90_ASM(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}" : "=r"(done) : "r"(shared_address(barrier)),
        "r"(parity) : "memory");
    if (done) return;
    watchdog.look("mbarrier_wait");
  }
}

// Stores to a block's shared memory at some later time, and then counts the bytes at an mbarrier of the same block.
// Whoever waits there for the end of the phase sees the value. V has 4, 8 or 16 bytes.
template <class V>
LSTM_FUSED_DEVICE void store_remote_async(RemoteShared<V> p, V value, RemoteShared<MBarrier> barrier) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
  uint32_t word[sizeof(V) / 4];
  memcpy(word, &value, sizeof value);
  if constexpr (sizeof(V) == 4) {
    LSTM_FUSED_SM90_ASM(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(p.address), "r"(word[0]),
        "r"(barrier.address) : "memory");
  } else if constexpr (sizeof(V) == 8) {
    LSTM_FUSED_SM90_ASM(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(p.address),
        "r"(word[0]), "r"(word[1]), "r"(barrier.address) : "memory");
  } else {
    LSTM_FUSED_SM90_ASM(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            p.address),
        "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3]), "r"(barrier.address) : "memory");
  }
}

// ---- global memory that blocks of one launch exchange data through

// An ordinary access: what another thread of the block wrote may be read behind a barrier, what another block wrote
// never. V has 1 to 16 bytes, a power of two.
template <class V>
LSTM_FUSED_DEVICE V load_global(const V* p) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0);
  return *p;
}
template <class V>
LSTM_FUSED_DEVICE void store_global(V* p, V value) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0);
  *p = value;
}

// Words between all threads of the GPU, relaxed: each arrives whole, sooner or later, and says nothing about any other,
// nor about its neighbours of a vector.
LSTM_FUSED_DEVICE Words<1> load_relaxed(const Words<1>* p) {
  Words<1> words;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(words.word[0]) : "l"(p) : "memory");
  return words;
}
LSTM_FUSED_DEVICE Words<2> load_relaxed(const Words<2>* p) {
  Words<2> words;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
               : "=r"(words.word[0]), "=r"(words.word[1])
               : "l"(p)
               : "memory");
  return words;
}
// What lies kOffset bytes behind p, or zeros, where that is not one of `left` bytes from p on. No branch.
template <int kOffset>
LSTM_FUSED_DEVICE Words<4> load_relaxed_within(int left, const char* p) {
  Words<4> words = {};
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.gt.s32 p, %5, %6;\n"
      "@p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4+%6];\n"
      "}"
      : "+r"(words.word[0]), "+r"(words.word[1]), "+r"(words.word[2]), "+r"(words.word[3])
      : "l"(p), "r"(left), "n"(kOffset)
      : "memory");
  return words;
}
LSTM_FUSED_DEVICE Words<4> load_relaxed(const Words<4>* p) {
  return load_relaxed_within<0>(1, reinterpret_cast<const char*>(p));
}
// Only where it is `wanted`; no branch.
LSTM_FUSED_DEVICE void store_relaxed_if(bool wanted, Words<1>* p, const Words<1>& words) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.u32 p, %2, 0;\n"
      "@p st.relaxed.gpu.global.u32 [%0], %1;\n"
      "}" ::"l"(p),
      "r"(words.word[0]), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}
LSTM_FUSED_DEVICE void store_relaxed_if(bool wanted, Words<2>* p, const Words<2>& words) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.u32 p, %3, 0;\n"
      "@p st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};\n"
      "}" ::"l"(p),
      "r"(words.word[0]), "r"(words.word[1]), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}
LSTM_FUSED_DEVICE void store_relaxed_if(bool wanted, Words<4>* p, const Words<4>& words) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.u32 p, %5, 0;\n"
      "@p st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};\n"
      "}" ::"l"(p),
      "r"(words.word[0]), "r"(words.word[1]), "r"(words.word[2]), "r"(words.word[3]), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}
// What the thread has stored so far is seen by whoever loads what it stores later, and then comes to a fence, too.
LSTM_FUSED_DEVICE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// Until predicate() holds; it looks at memory through the functions above alone.
template <class Predicate>
LSTM_FUSED_DEVICE void spin_wait(Predicate predicate) {
  constexpr unsigned kNanoseconds = 20;
  for (const Watchdog watchdog; !predicate(); watchdog.look("spin_wait")) __nanosleep(kNanoseconds);
}

}  // namespace lstm_fused
