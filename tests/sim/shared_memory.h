// The dynamic shared memory of a block.
#pragma once

#include <cstdint>
#include <vector>

#include "history.h"

namespace sim {

class SharedMemory {
 public:
  // Every byte unwritten.
  void reset(int64_t bytes);

  // Accesses by the calling thread, of this or another block of the cluster. They fault on races, out of bounds, where
  // misaligned, and on reads of bytes that nobody wrote.
  void load(int64_t offset, void* value, int64_t bytes, Site site);
  void store(int64_t offset, const void* value, int64_t bytes, Site site);

  // An asynchronous write: from begin to end any other access is a race. It ends as a write with the stamp `as`.
  void begin_write(int64_t offset, int64_t bytes, Site site);
  void land(int64_t offset, const void* value, int64_t bytes);
  void end_write(int64_t offset, int64_t bytes, Stamp as);

 private:
  void check(int64_t offset, int64_t bytes, const char* verb, Site site) const;

  int64_t size_ = 0;
  Time start_ = 0;  // stamps up to it are those of blocks before
  std::vector<char> data_;
  std::vector<History> histories_;
};

}  // namespace sim
