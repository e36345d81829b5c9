// Global memory that blocks of one launch exchange data through.
//
// A relaxed store is seen by others at a random later time, or when a fence that it is ordered before is passed. Of
// some words it is late: it is seen then, or when nobody can move and somebody has looked for it. Ordinary accesses
// take effect at once, but two of them by different blocks race, and one of them with a relaxed one.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <unordered_map>
#include <vector>

#include "history.h"

namespace sim {

class GlobalMemory {
 public:
  explicit GlobalMemory(uint64_t seed) : seed_(seed) {}

  // By the calling thread; a value has 4, 8 or 16 bytes and is aligned to them.
  void read(const void* p, int64_t bytes, Site site);
  void load(const void* p, void* value, int64_t bytes, Site site);
  void store(void* p, const void* value, int64_t bytes, Site site);

  uint32_t load_relaxed(const uint32_t* p, Site site);
  void store_relaxed(uint32_t* p, uint32_t value, Site site);
  // All that the calling thread stored, or knows that others did, becomes visible.
  void fence();

  // Whether anybody asked for any of this.
  bool in_use() const { return !histories_.empty(); }

  // Relaxed stores that nobody else sees yet and that are not late, and letting everyone see one of them.
  uint32_t num_unseen() const { return static_cast<uint32_t>(soon_.size()); }
  void show(uint32_t which);
  // Late ones that were looked for; whether there were any.
  bool show_late();

 private:
  struct Store {
    uint32_t value;
    Stamp stamp;
  };
  struct Word {
    uint32_t* address;
    std::deque<Store> stores;  // oldest first
  };
  // By the order in which words were first stored to, so that a seed is a schedule wherever memory lies.
  using Words = std::map<int64_t, Word>;

  History* histories(const void* p, int64_t bytes, const char* verb, Site site);
  bool is_late(int64_t number) const;
  Words::iterator show_oldest(Words::iterator word);  // the word's place, or that behind it if it was the only one

  const uint64_t seed_;
  std::unordered_map<uintptr_t, std::array<History, 16>> histories_;  // by address / 16
  std::unordered_map<const uint32_t*, int64_t> numbers_;
  Words unseen_;               // words with such stores
  std::vector<int64_t> soon_;  // of each that is not late, its word
  std::set<int64_t> looked_for_;
};

}  // namespace sim
