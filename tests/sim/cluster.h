// Barriers between parts of a block and between the blocks of a cluster, and shared memory of other blocks.
#pragma once

#include <cstdint>

#include "machine.h"

namespace sim {

void named_barrier(int id, int threads, Site site);
void named_arrive(int id, int threads, Site site);

int cluster_rank();
void cluster_arrive(Site site);
void cluster_wait(Site site);
// Called when a thread ends: nobody waits for it any more.
void leave_cluster_barrier(Thread& thread);

// Where p of the calling block's shared memory lies in block `rank` of its cluster.
void* map_shared(void* p, int rank, Site site);
void store_remote(void* p, const void* value, int64_t bytes, Site site);
void store_remote_async(void* p, const void* value, int64_t bytes, void* mbarrier, Site site);

// An mbarrier goes from phase to phase: a phase ends when `count` arrivals have come and all bytes that were announced.
// `mbarrier` points into the calling block's shared memory, but for the remote arrival.
void mbarrier_init(void* mbarrier, int count, Site site);
void mbarrier_fence_init();
void mbarrier_arrive(void* mbarrier, int64_t bytes, Site site);
void mbarrier_arrive_remote(void* mbarrier, Site site);
void mbarrier_wait(void* mbarrier, int parity, Site site);
bool mbarrier_try_wait(void* mbarrier, int parity, Site site);  // whether there is nothing to wait for

}  // namespace sim
