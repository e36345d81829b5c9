#include "device.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#include "numbers.h"

namespace sim {
namespace {

constexpr int64_t kWindowBytes = 256 * 1024;  // more than a block may have

// Addresses without memory, a window for each block on the machine.
char* windows() {
  static char* const start = [] {
    void* p =
        mmap(nullptr, kMaxResidentBlocks * kWindowBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    return static_cast<char*>(p);
  }();
  return start;
}

int64_t shared_offset(const void* p) {
  return reinterpret_cast<intptr_t>(p) - reinterpret_cast<intptr_t>(shared_memory());
}

// An approximate instruction: off by as much as it may be, differently for each result but always the same.
float with_error(float x) {
  constexpr float kError = 1.0f / (1 << 22);
  const uint32_t hash = float_to_bits(x) * 0x9e3779b9u;
  return x * (1 + kError * (static_cast<float>(hash >> 8) / (1 << 23) - 1));
}

}  // namespace

char* shared_memory() { return windows() + self->block->slot * kWindowBytes; }

void load_shared(const void* p, void* value, int64_t bytes, Site site) {
  machine->maybe_preempt();
  self->block->shared.load(*self, shared_offset(p), value, bytes, site);
}

void store_shared(void* p, const void* value, int64_t bytes, Site site) {
  machine->maybe_preempt();
  self->block->shared.store(*self, shared_offset(p), value, bytes, site);
}

void copy_async_16(void* shared, const void* global, Site site) {
  machine->maybe_preempt();
  if (reinterpret_cast<uintptr_t>(global) % 16) fault("copies from a global address that 16 does not divide", site);
  const int64_t offset = shared_offset(shared);
  self->block->shared.begin_copy(*self, offset, 16, site);
  // Its bytes are read from global memory at any time from here to the wait.
  const bool landed = machine->random().one_in(2);
  if (landed) self->block->shared.land_copy(offset, global, 16);
  self->copies.push_back({offset, global, self->closed_groups, landed});
}

void close_copies() { ++self->closed_groups; }

void wait_for_copies(int open_groups, Site site) {
  machine->maybe_preempt();
  SharedMemory& shared = self->block->shared;
  size_t kept = 0;
  for (const AsyncCopy& copy : self->copies) {
    if (copy.group >= self->closed_groups - open_groups) {
      self->copies[kept++] = copy;
      continue;
    }
    if (!copy.landed) shared.land_copy(copy.offset, copy.source, 16);
    shared.end_copy(*self, copy.offset, 16, site);
  }
  self->copies.resize(kept);
}

void block_barrier(Site site) { machine->meet_block("block_barrier", site); }

void warp_barrier(Site site) {
  machine->meet_warp("warp_barrier", site, nullptr, [](Warp& warp, void* const(&)[kWarpSize]) { warp.known = now++; });
}

bool any_lane(bool predicate, Site site) {
  machine->meet_warp("any_lane", site, &predicate, [](Warp&, void* const(&lanes)[kWarpSize]) {
    bool any = false;
    for (void* lane : lanes) any |= *static_cast<bool*>(lane);
    for (void* lane : lanes) *static_cast<bool*>(lane) = any;
  });
  return predicate;
}

float exp2_approximate(float x) { return with_error(std::exp2(x)); }
float reciprocal_approximate(float x) { return with_error(1 / x); }

}  // namespace sim
