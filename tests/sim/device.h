// What the primitives do that is more than arithmetic. All but shared_memory may take the calling thread's turn.
#pragma once

#include <cstdint>

#include "machine.h"

namespace sim {

// Where the calling block's shared memory seems to lie. Nothing is mapped there: whoever does not ask load_shared and
// store_shared crashes.
char* shared_memory();
char* shared_memory_of(const Block& block);
void load_shared(const void* p, void* value, int64_t bytes, Site site);
void store_shared(void* p, const void* value, int64_t bytes, Site site);

// Relative to the calling block's shared memory.
int64_t shared_offset(const void* p);
// Whose shared memory it is.
struct SharedAddress {
  Block* block;
  int64_t offset;
};
SharedAddress find_shared(const void* p, Site site);

void copy_async_16(void* shared, const void* global, Site site);
void close_copies();
void wait_for_copies(int open_groups, Site site);

// Global memory that blocks of one launch exchange data through.
void load_global(const void* p, void* value, int64_t bytes, Site site);
void store_global(void* p, const void* value, int64_t bytes, Site site);
// `count` words of 4 bytes side by side, one after the other.
void load_relaxed(const void* p, uint32_t* words, int count, Site site);
void store_relaxed(void* p, const uint32_t* words, int count, Site site);
void fence_gpu(Site site);

bool is_skipped(Site site);  // by skip_barrier of sim.h
bool is_lost(Site site);     // what the calling thread sends from there, by lose_messages of sim.h
bool waits_are_watched();    // by watch_waits of sim.h
uint64_t nanoseconds();      // of a clock that goes on when it is looked at
void block_barrier(Site site);
void warp_barrier(Site site);
bool any_lane(bool predicate, Site site);

// Element types of a matrix product.
enum class Factor { kFloat16, kBFloat16, kTf32 };
void mma(Factor factor, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site);

template <class T>
T shuffle_xor(T value, int lane_mask, Site site) {
  struct Lane {
    T value, result;
    int source;
  } lane{value, value, self->lane ^ lane_mask};
  machine->meet_warp("shuffle_xor", site, &lane, [](Warp&, void* const(&lanes)[kWarpSize]) {
    for (void* mine : lanes) {
      const int source = static_cast<Lane*>(mine)->source;
      if (source >= 0 && source < kWarpSize) {
        static_cast<Lane*>(mine)->result = static_cast<Lane*>(lanes[source])->value;
      }
    }
  });
  return lane.result;
}

}  // namespace sim
