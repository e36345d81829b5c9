#include "cluster.h"

#include <cstring>

#include "device.h"

namespace sim {
namespace {

constexpr int64_t kMBarrierBytes = 8;

void wake(std::vector<Thread*>& threads, Delay delay) {
  for (Thread* thread : threads) machine->make_ready(*thread, delay);
  threads.clear();
}

void complete_cluster_barrier(Cluster& cluster) {
  cluster.arrived = 0;
  ++cluster.phase;
  cluster.release.add_cluster_runs();
  cluster.released = cluster.release.take();
  wake(cluster.waiting, Delay::kClusterBarrier);
}

// A block of the calling thread's cluster that has not ended.
SharedAddress find_remote(const void* p, Site site) {
  const SharedAddress address = find_shared(p, site);
  if (address.block->cluster != self->block->cluster) fault("accesses shared memory of another cluster", site);
  if (address.block != self->block && !(self->learned && self->learned->cluster_runs())) {
    fault("accesses shared memory of another block, which may not have started: no cluster barrier yet", site);
  }
  if (!address.block->running)
    fault("accesses shared memory of block " + text(address.block->index) + ", which has ended", site);
  return address;
}

MBarrier& find_mbarrier(const SharedAddress& address, Site site) {
  const auto found = address.block->mbarriers.find(address.offset);
  if (found == address.block->mbarriers.end()) {
    fault("no mbarrier was initialised at byte " + std::to_string(address.offset) + " of shared memory", site);
  }
  uint64_t state;
  address.block->shared.load(address.offset, &state, kMBarrierBytes, site);  // races with the initialisation, if any
  if (address.block != self->block && !found->second.fenced) {
    fault("uses an mbarrier of another block that was initialised without mbarrier_fence_init", site);
  }
  return found->second;
}

void complete_phase(MBarrier& mbarrier) {
  if (mbarrier.missing || mbarrier.bytes) return;
  mbarrier.missing = mbarrier.count;
  ++mbarrier.phase;
  mbarrier.released = mbarrier.release.take();
  wake(mbarrier.waiting, Delay::kPhase);
}

void arrive(MBarrier& mbarrier, int64_t bytes, Site site, const Knowledge& knowledge) {
  if (mbarrier.missing == 1) machine->before_others_go_on();
  if (!mbarrier.missing) {
    fault("arrives at an mbarrier where all " + std::to_string(mbarrier.count) + " have arrived", site);
  }
  mbarrier.release.add(knowledge);
  mbarrier.bytes += bytes;
  --mbarrier.missing;
  complete_phase(mbarrier);
}

NamedBarrier& come_to(int id, int threads, const char* name, Site site) {
  machine->maybe_preempt();
  if (id < 1 || id > 15 || threads < 1 || threads % kWarpSize) {
    fault(std::string(name) + " " + std::to_string(id) + " of " + std::to_string(threads) + " threads", site);
  }
  NamedBarrier& barrier = self->block->named_barriers[id];
  if (!barrier.missing) {
    barrier.missing = barrier.expected = threads;
  } else if (threads != barrier.expected) {
    fault("comes to " + std::string(name) + " " + std::to_string(id) + " of " + std::to_string(threads) +
              " threads while others wait for " + std::to_string(barrier.expected),
          site);
  }
  barrier.release.add(knowledge_of(*self));
  --barrier.missing;
  return barrier;
}
// What those who have come to it knew; those who wait go on.
ClockPointer complete(NamedBarrier& barrier) {
  machine->before_others_go_on();
  const ClockPointer released = barrier.release.take();
  for (Thread* thread : barrier.waiting) thread->learned = join(thread->learned, released);
  wake(barrier.waiting, Delay::kBarrier);
  return released;
}

}  // namespace

void named_barrier(int id, int threads, Site site) {
  if (is_skipped(site)) return;
  NamedBarrier& barrier = come_to(id, threads, "named_barrier", site);
  if (barrier.missing) {
    barrier.waiting.push_back(self);
    machine->wait("named_barrier", site);
  } else {
    self->learned = join(self->learned, complete(barrier));
    machine->preempt(Delay::kBarrier);
  }
}
void named_arrive(int id, int threads, Site site) {
  if (is_skipped(site)) return;
  // A warp arrives as one, and learns nothing by it.
  machine->meet_warp("named_arrive", site, nullptr, [](Warp&, void* const(&)[kWarpSize]) {});
  NamedBarrier& barrier = come_to(id, threads, "named_arrive", site);
  if (!barrier.missing) complete(barrier);
}

int cluster_rank() { return self->block->slot % machine->shape().cluster; }

void cluster_arrive(Site site) {
  machine->maybe_preempt();
  if (self->in_cluster_barrier) fault("comes to cluster_arrive twice without cluster_wait", site);
  Cluster& cluster = *self->block->cluster;
  if (cluster.arrived + 1 == cluster.running) machine->before_others_go_on();
  machine->global().fence();
  cluster.release.add(knowledge_of(*self));
  self->in_cluster_barrier = true;
  self->cluster_phase = cluster.phase;
  if (++cluster.arrived == cluster.running) complete_cluster_barrier(cluster);
}

void cluster_wait(Site site) {
  machine->maybe_preempt();
  if (!self->in_cluster_barrier) fault("comes to cluster_wait without cluster_arrive", site);
  Cluster& cluster = *self->block->cluster;
  if (cluster.phase == self->cluster_phase) {
    cluster.waiting.push_back(self);
    machine->wait("cluster_wait", site);
  }
  self->in_cluster_barrier = false;
  self->learned = join(self->learned, cluster.released);
}

void leave_cluster_barrier(Thread& thread) {
  Cluster& cluster = *thread.block->cluster;
  if (thread.in_cluster_barrier && thread.cluster_phase == cluster.phase) --cluster.arrived;
  if (cluster.arrived && cluster.arrived == cluster.running) complete_cluster_barrier(cluster);
}

void* map_shared(void* p, int rank, Site site) {
  const int cluster = machine->shape().cluster;
  if (rank < 0 || rank >= cluster) {
    fault("maps to block " + std::to_string(rank) + " of a cluster of " + std::to_string(cluster), site);
  }
  if (find_shared(p, site).block != self->block) fault("maps an address that is not its own block's", site);
  return shared_memory_of(self->block->cluster->blocks[rank]) + shared_offset(p);
}

void store_remote(void* p, const void* value, int64_t bytes, Site site) {
  machine->maybe_preempt();
  const SharedAddress to = find_remote(p, site);
  to.block->shared.store(to.offset, value, bytes, site);
}

void store_remote_async(void* p, const void* value, int64_t bytes, void* mbarrier, Site site) {
  machine->maybe_preempt();
  if (is_lost(site)) return;
  const SharedAddress to = find_remote(p, site), at = find_remote(mbarrier, site);
  if (to.block != at.block) fault("stores to one block and tells an mbarrier of another", site);
  MBarrier& done = find_mbarrier(at, site);
  to.block->shared.begin_write(to.offset, bytes, site);
  std::vector<char> copy(static_cast<const char*>(value), static_cast<const char*>(value) + bytes);
  ++to.block->incoming;
  // It happens as if by a thread of its own, started here: who sees it knows what the caller knew.
  machine->happen_later(Delay::kRemote, [to, copy, &done, site, knowledge = knowledge_of(*self)] {
    const int64_t size = static_cast<int64_t>(copy.size());
    --to.block->incoming;
    to.block->shared.land(to.offset, copy.data(), size);
    to.block->shared.end_write(to.offset, size,
                               {now, 0, static_cast<uint64_t>(done.actor), static_cast<uint64_t>(site.line), 0});
    done.release.add_actor(done.actor, now++);
    done.release.add(knowledge);
    done.bytes -= size;
    complete_phase(done);
  });
}

void mbarrier_init(void* mbarrier, int count, Site site) {
  machine->maybe_preempt();
  if (count < 1) fault("mbarrier_init with " + std::to_string(count) + " arrivals", site);
  const int64_t offset = shared_offset(mbarrier);
  const uint64_t state = 0;
  self->block->shared.store(offset, &state, kMBarrierBytes, site);
  MBarrier& made = self->block->mbarriers[offset] = {};
  made.count = made.missing = count;
  made.initialiser = self->number;
  made.actor = machine->new_actor();
}

void mbarrier_fence_init() {
  for (auto& [offset, mbarrier] : self->block->mbarriers) {
    if (mbarrier.initialiser == self->number) mbarrier.fenced = true;
  }
}

void mbarrier_arrive(void* mbarrier, int64_t bytes, Site site) {
  machine->maybe_preempt();
  arrive(find_mbarrier({self->block, shared_offset(mbarrier)}, site), bytes, site, knowledge_of(*self));
}

void mbarrier_arrive_remote(void* mbarrier, Site site) {
  machine->maybe_preempt();
  MBarrier& there = find_mbarrier(find_remote(mbarrier, site), site);
  machine->happen_after(Delay::kRemote,
                        [&there, site, knowledge = knowledge_of(*self)] { arrive(there, 0, site, knowledge); });
}

void mbarrier_wait(void* mbarrier, int parity, Site site) {
  while (!mbarrier_try_wait(mbarrier, parity, site)) {  // looked at again: another phase may have ended since
    find_mbarrier({self->block, shared_offset(mbarrier)}, site).waiting.push_back(self);
    machine->wait("mbarrier_wait", site);
  }
}

bool mbarrier_try_wait(void* mbarrier, int parity, Site site) {
  machine->maybe_preempt();
  const MBarrier& awaited = find_mbarrier({self->block, shared_offset(mbarrier)}, site);
  if ((awaited.phase & 1) == parity) return false;
  self->learned = join(self->learned, awaited.released);
  return true;
}

}  // namespace sim
