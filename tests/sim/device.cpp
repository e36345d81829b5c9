#include "device.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <string>

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

// An mbarrier is nobody's to read or write.
void check_no_mbarrier(int64_t offset, int64_t bytes, Site site) {
  const auto& mbarriers = self->block->mbarriers;
  if (mbarriers.empty()) return;
  for (int64_t word = offset & ~int64_t{7}; word < offset + bytes; word += 8) {
    if (mbarriers.count(word))
      fault("accesses the mbarrier at byte " + std::to_string(word) + " of shared memory", site);
  }
}

void check_aligned(const void* p, int words, Site site) {
  if (reinterpret_cast<uintptr_t>(p) % (words * sizeof(uint32_t)))
    fault(std::to_string(words) + " words of global memory: misaligned", site);
}

// An approximate instruction: off by as much as it may be, differently for each result but always the same.
float with_error(float x, float error = 0x1p-22f) {
  const uint32_t hash = float_to_bits(x) * 0x9e3779b9u;
  return x * (1 + error * (static_cast<float>(hash >> 8) / (1 << 23) - 1));
}

// A line of a kernel where a fault is planted; none without a name.
struct Place {
  std::string file_name;
  int line;

  bool is(Site site) const {
    if (file_name.empty() || site.line != line) return false;
    const std::string file = site.file;
    return file.size() >= file_name.size() &&
           file.compare(file.size() - file_name.size(), file_name.size(), file_name) == 0;
  }
};
Place skipped, lost;
bool watched = false;

}  // namespace

int64_t shared_offset(const void* p) {
  return reinterpret_cast<intptr_t>(p) - reinterpret_cast<intptr_t>(shared_memory());
}

SharedAddress find_shared(const void* p, Site site) {
  const int64_t offset = reinterpret_cast<intptr_t>(p) - reinterpret_cast<intptr_t>(windows());
  if (offset < 0 || offset >= machine->num_slots() * kWindowBytes)
    fault("takes another address for shared memory", site);
  return {&machine->block_in(static_cast<int>(offset / kWindowBytes)), offset % kWindowBytes};
}

char* shared_memory_of(const Block& block) { return windows() + block.slot * kWindowBytes; }
char* shared_memory() { return shared_memory_of(*self->block); }

void load_shared(const void* p, void* value, int64_t bytes, Site site) {
  machine->maybe_preempt();
  check_no_mbarrier(shared_offset(p), bytes, site);
  self->block->shared.load(shared_offset(p), value, bytes, site);
}

void store_shared(void* p, const void* value, int64_t bytes, Site site) {
  machine->maybe_preempt();
  check_no_mbarrier(shared_offset(p), bytes, site);
  self->block->shared.store(shared_offset(p), value, bytes, site);
}

void copy_async_16(void* shared, const void* global, Site site) {
  machine->maybe_preempt();
  if (reinterpret_cast<uintptr_t>(global) % 16) fault("copies from a global address that 16 does not divide", site);
  const int64_t offset = shared_offset(shared);
  self->block->shared.begin_write(offset, 16, site);
  // Its bytes are read from global memory at any time from here to the wait.
  if (machine->global().in_use()) machine->global().read(global, 16, site);
  const bool landed = machine->random().one_in(2);
  if (landed) self->block->shared.land(offset, global, 16);
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
    if (!copy.landed) shared.land(copy.offset, copy.source, 16);
    shared.end_write(copy.offset, 16, stamp_here(site));
  }
  self->copies.resize(kept);
}

void load_global(const void* p, void* value, int64_t bytes, Site site) {
  machine->maybe_preempt();
  machine->global().load(p, value, bytes, site);
}
void store_global(void* p, const void* value, int64_t bytes, Site site) {
  machine->maybe_preempt();
  machine->global().store(p, value, bytes, site);
}
void load_relaxed(const void* p, uint32_t* words, int count, Site site) {
  check_aligned(p, count, site);
  for (int n = 0; n < count; ++n) {
    machine->maybe_preempt();
    words[n] = machine->global().load_relaxed(static_cast<const uint32_t*>(p) + n, site);
  }
}
void store_relaxed(void* p, const uint32_t* words, int count, Site site) {
  check_aligned(p, count, site);
  for (int n = 0; n < count; ++n) {
    machine->maybe_preempt();
    if (!is_lost(site)) machine->global().store_relaxed(static_cast<uint32_t*>(p) + n, words[n], site);
  }
}
void fence_gpu(Site site) {
  machine->maybe_preempt();
  if (!is_skipped(site)) machine->global().fence();
}

void skip_barrier(const char* file_name, int line) { skipped = {file_name, line}; }
void lose_messages(const char* file_name, int line) { lost = {file_name, line}; }
void watch_waits(bool watch) { watched = watch; }

bool waits_are_watched() { return watched; }
uint64_t nanoseconds() {
  constexpr uint64_t kOneLook = 20000;
  static uint64_t time = 0;
  return time += kOneLook;
}

bool is_skipped(Site site) { return skipped.is(site); }
bool is_lost(Site site) { return lost.is(site) && self->block->index.x == 1; }

void block_barrier(Site site) {
  if (!is_skipped(site)) machine->meet_block("block_barrier", site);
}

void warp_barrier(Site site) {
  if (is_skipped(site)) return;
  machine->meet_warp("warp_barrier", site, nullptr, [](Warp& warp, void* const(&)[kWarpSize]) {
    warp.known = now++;
    share_knowledge(warp.threads, kWarpSize);
  });
}

bool any_lane(bool predicate, Site site) {
  machine->meet_warp("any_lane", site, &predicate, [](Warp&, void* const(&lanes)[kWarpSize]) {
    bool any = false;
    for (void* lane : lanes) any |= *static_cast<bool*>(lane);
    for (void* lane : lanes) *static_cast<bool*>(lane) = any;
  });
  return predicate;
}

float exp2_approximate(float x) { return flushed(with_error(std::exp2(flushed(x)))); }
float reciprocal_approximate(float x) { return flushed(with_error(1 / flushed(x))); }
float tanh_approximate(float x) {
  if (std::isinf(x)) return std::copysign(1.0f, x);
  return std::copysign(with_error(std::tanh(std::fabs(x)), 0x1p-11f), x);
}

}  // namespace sim
