// The twin of csrc/kernels/cluster_primitives.cuh. What the functions promise stands in the original.
#pragma once

#include <cstdint>

#include "kernels/primitives.cuh"
#include "kernels/watchdog.cuh"
#include "sim/cluster.h"
#include "sim/device.h"

namespace lstm_fused {

// ---- a part of a block

inline void named_barrier(int id, int threads, Site site = Site::here()) { sim::named_barrier(id, threads, site); }
inline void named_arrive(int id, int threads, Site site = Site::here()) { sim::named_arrive(id, threads, site); }

// ---- a cluster

inline int cluster_rank() { return sim::cluster_rank(); }
inline int cluster_size() { return sim::machine->shape().cluster; }
inline void cluster_arrive(Site site = Site::here()) { sim::cluster_arrive(site); }
inline void cluster_wait(Site site = Site::here()) { sim::cluster_wait(site); }

template <class V>
struct RemoteShared {
  V* p;
  RemoteShared operator+(int n) const { return {p + n}; }
};

template <class V>
RemoteShared<V> map_shared(V* p, int rank, Site site = Site::here()) {
  return {static_cast<V*>(sim::map_shared(p, rank, site))};
}
template <class V>
void store_remote(RemoteShared<V> p, V value, Site site = Site::here()) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
  sim::store_remote(p.p, &value, sizeof value, site);
}

// ---- mbarrier

struct alignas(8) MBarrier {
  uint64_t state;
};

inline void mbarrier_init(MBarrier* barrier, int arrivals, Site site = Site::here()) {
  sim::mbarrier_init(barrier, arrivals, site);
}
inline void mbarrier_fence_init() { sim::mbarrier_fence_init(); }
inline void mbarrier_arrive(MBarrier* barrier, Site site = Site::here()) { sim::mbarrier_arrive(barrier, 0, site); }
inline void mbarrier_arrive_expect_bytes(MBarrier* barrier, int bytes, Site site = Site::here()) {
  sim::mbarrier_arrive(barrier, bytes, site);
}
inline void mbarrier_arrive_remote(RemoteShared<MBarrier> barrier, Site site = Site::here()) {
  sim::mbarrier_arrive_remote(barrier.p, site);
}
inline void mbarrier_wait(MBarrier* barrier, int parity, Site site = Site::here()) {
  if (!sim::waits_are_watched()) return sim::mbarrier_wait(barrier, parity, site);
  for (const Watchdog watchdog; !sim::mbarrier_try_wait(barrier, parity, site); watchdog.look("mbarrier_wait"))
    sim::machine->preempt();
}
template <class V>
void store_remote_async(RemoteShared<V> p, V value, RemoteShared<MBarrier> barrier, Site site = Site::here()) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
  sim::store_remote_async(p.p, &value, sizeof value, barrier.p, site);
}

// ---- global memory that blocks of one launch exchange data through

template <class V>
V load_global(const V* p, Site site = Site::here()) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0);
  V value;
  sim::load_global(p, &value, sizeof value, site);
  return value;
}
template <class V>
void store_global(V* p, V value, Site site = Site::here()) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0);
  sim::store_global(p, &value, sizeof value, site);
}

template <int n>
Words<n> load_relaxed(const Words<n>* p, Site site = Site::here()) {
  Words<n> words;
  sim::load_relaxed(p, words.word, n, site);
  return words;
}
template <int kOffset>
Words<4> load_relaxed_within(int left, const char* p, Site site = Site::here()) {
  return left > kOffset ? load_relaxed(reinterpret_cast<const Words<4>*>(p + kOffset), site) : Words<4>{};
}
template <int n>
void store_relaxed_if(bool wanted, Words<n>* p, const Words<n>& words, Site site = Site::here()) {
  if (wanted) sim::store_relaxed(p, words.word, n, site);
}
inline void fence_gpu(Site site = Site::here()) { sim::fence_gpu(site); }

template <class Predicate>
void spin_wait(Predicate predicate, Site site = Site::here()) {
  if (sim::is_skipped(site)) return;
  if (sim::waits_are_watched()) {
    for (const Watchdog watchdog; !predicate(); watchdog.look("spin_wait")) sim::machine->preempt();
    return;
  }
  while (true) {
    const int64_t version = sim::machine->version();
    if (predicate()) return;
    sim::machine->spin(version, site);
  }
}

}  // namespace lstm_fused
