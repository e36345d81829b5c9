// Global memory that blocks of one launch exchange data through.
//
// A relaxed store is seen by others at a random later time, or when a release that it is ordered before is. Ordinary
// accesses take effect at once, but two of them race unless a release and an acquire lie between them.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "clock.h"
#include "history.h"

namespace sim {

class GlobalMemory {
 public:
  // By the calling thread; a value has 4, 8 or 16 bytes and is aligned to them.
  void read(const void* p, int64_t bytes, Site site);
  void load(const void* p, void* value, int64_t bytes, Site site);
  void store(void* p, const void* value, int64_t bytes, Site site);

  uint64_t load_relaxed(const void* p, int64_t bytes, Site site);
  uint64_t load_acquire(const void* p, int64_t bytes, Site site);
  void store_relaxed(void* p, uint64_t value, int64_t bytes, Site site);
  void store_release(void* p, uint64_t value, int64_t bytes, Site site);
  uint64_t add(void* p, uint64_t value, int64_t bytes, bool release, Site site);

  // All that the calling thread stored, or knows that others did, becomes visible.
  void publish();

  // Whether anybody asked for any of this.
  bool in_use() const { return !histories_.empty(); }

  // Relaxed stores that nobody else sees yet, and letting everyone see one of them.
  uint32_t num_unseen() const { return static_cast<uint32_t>(unseen_.size()); }
  void show(uint32_t which);

 private:
  struct Store {
    char* address;
    uint64_t value;
    int64_t bytes;
    Stamp stamp;
  };

  History* histories(const void* p, int64_t bytes, const char* verb, Site site);
  void make_visible(size_t index);

  std::unordered_map<uintptr_t, std::array<History, 16>> histories_;  // by address / 16
  std::unordered_map<const void*, ClockPointer> released_;            // what an acquire of that address learns
  std::vector<Store> unseen_;                                         // oldest first
};

}  // namespace sim
