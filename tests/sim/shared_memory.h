// The dynamic shared memory of a block, with what is known about every byte: who wrote it, who read it, and when.
//
// Time counts synchronisations, over all threads and launches. A barrier that completes at time t makes all that its
// threads did up to t happen before what they do next, so one number per barrier says what is ordered. A byte keeps
// its last writer and two of its readers since; of more than two readers that are unordered among themselves a random
// one is forgotten, so a race with it may be missed in that run, but no report is ever wrong.
#pragma once

#include <cstdint>
#include <vector>

namespace sim {

using Time = uint64_t;

struct Thread;
struct Site;

// An access. Zero: none.
struct Stamp {
  uint64_t time : 33;
  uint64_t in_flight : 1;  // an asynchronous copy whose end nobody has waited for: ordered before nothing
  uint64_t thread : 14;    // Thread::in_cluster
  uint64_t line : 16;
};

class SharedMemory {
 public:
  // Every byte unwritten.
  void reset(int64_t bytes);

  // Accesses by `thread`, of its own or another block of the cluster. They fault on bytes that were not written, and
  // on those that another thread touched without a barrier in between.
  void load(const Thread& thread, int64_t offset, void* value, int64_t bytes, Site site);
  void store(const Thread& thread, int64_t offset, const void* value, int64_t bytes, Site site);

  // The two ends of an asynchronous copy by `thread`.
  void begin_copy(const Thread& thread, int64_t offset, int64_t bytes, Site site);
  void land_copy(int64_t offset, const void* value, int64_t bytes);
  void end_copy(const Thread& thread, int64_t offset, int64_t bytes, Site site);

  int64_t size() const { return size_; }

 private:
  struct Byte {
    Stamp writer;
    Stamp readers[2];
  };

  void check(int64_t offset, int64_t bytes, const char* verb, Site site) const;
  void check_write(const Thread& thread, int64_t offset, int64_t bytes, Site site) const;
  bool exists(Stamp stamp) const { return stamp.time > start_; }
  [[noreturn]] void race(const Thread& thread, int64_t offset, const char* verb, Stamp other, const char* other_verb,
                         Site site) const;

  int64_t size_ = 0;
  Time start_ = 0;  // stamps up to it are those of blocks before
  std::vector<char> data_;
  std::vector<Byte> bytes_;
};

}  // namespace sim
