// Global memory that blocks of one launch exchange data through.
//
// A relaxed store is seen by others at a random later time, or when a release or a fence that it is ordered before is.
// At some addresses it is late: it is seen then, or when nobody can move and somebody has looked for it. Ordinary
// accesses take effect at once, but two of them race unless a release and an acquire lie between them.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "clock.h"
#include "history.h"

namespace sim {

class GlobalMemory {
 public:
  explicit GlobalMemory(uint64_t seed) : late_(seed) {}

  // By the calling thread; a value has 4, 8 or 16 bytes and is aligned to them.
  void read(const void* p, int64_t bytes, Site site);
  void load(const void* p, void* value, int64_t bytes, Site site);
  void store(void* p, const void* value, int64_t bytes, Site site);

  uint64_t load_relaxed(const void* p, int64_t bytes, Site site);
  uint64_t load_acquire(const void* p, int64_t bytes, Site site);
  void store_relaxed(void* p, uint64_t value, int64_t bytes, Site site);
  void store_release(void* p, uint64_t value, int64_t bytes, Site site);
  uint64_t add(void* p, uint64_t value, int64_t bytes, bool release, Site site);

  // All that the calling thread stored, or knows that others did, becomes visible. A fence does as much.
  void publish();

  // Whether anybody asked for any of this.
  bool in_use() const { return !histories_.empty(); }

  // Relaxed stores that nobody else sees yet and that are not late, and letting everyone see one of them.
  uint32_t num_unseen() const { return static_cast<uint32_t>(soon_.size()); }
  void show(uint32_t which);
  // Late ones that were looked for; whether there were any.
  bool show_late();

 private:
  struct Store {
    uint64_t value;
    int64_t bytes;
    Stamp stamp;
  };
  using Stores = std::deque<Store>;  // to one address, oldest first

  History* histories(const void* p, int64_t bytes, const char* verb, Site site);
  bool is_late(const void* p) const;
  void make_visible(char* p, Stores& stores);  // the oldest

  const uint64_t late_;                                               // decides which addresses are
  std::unordered_map<uintptr_t, std::array<History, 16>> histories_;  // by address / 16
  std::unordered_map<const void*, ClockPointer> released_;            // what an acquire of that address learns
  std::unordered_map<const void*, Stores> unseen_;                    // none empty
  std::vector<char*> soon_;                                           // addresses of those that are not late
  std::unordered_set<char*> looked_for_;                              // addresses of late ones
};

}  // namespace sim
