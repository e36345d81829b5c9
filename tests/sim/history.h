// What is known about a byte of memory: who wrote it, who read it since, and when. Two accesses of which one writes and
// neither happened before the other are a race.
//
// A byte keeps its last writer and two of its readers. Of more than two readers that are unordered among themselves a
// random one is forgotten, so that a race with it may be missed in that run, but no report is ever wrong.
#pragma once

#include <cstdint>

#include "clock.h"

namespace sim {

struct Site;

// An access. Zero: none.
struct Stamp {
  uint64_t time : 31;
  uint64_t in_flight : 1;  // an asynchronous write whose end nobody has waited for: ordered before nothing
  uint64_t thread : 20;    // Thread::number, or a number of Machine::new_actor
  uint64_t line : 11;
  uint64_t strong : 1;  // relaxed, acquire or release: never in a race with another of its kind
};

// Of the calling thread, now.
Stamp stamp_here(Site site, bool strong = false);

// Whether the access happened before what the calling thread does now.
bool ordered(Stamp stamp);

struct History {
  Stamp writer;
  Stamp readers[2];
};

// Where a run of bytes lies, for reports.
struct Place {
  enum class Memory { kShared, kGlobal } memory;
  int64_t first;  // byte of shared memory, or address
};

// The calling thread's accesses to `count` bytes of one value; both fault on a race. Stamps up to `since` are those of
// a former use of the memory.
void note_read(History* bytes, int64_t count, Time since, Stamp mine, Place place, Site site);
void note_write(History* bytes, int64_t count, Time since, Stamp mine, Place place, Site site);

}  // namespace sim
