#include "global_memory.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "device.h"
#include "machine.h"

namespace sim {
namespace {

Place place_of(const void* p) { return {Place::Memory::kGlobal, reinterpret_cast<intptr_t>(p)}; }

}  // namespace

History* GlobalMemory::histories(const void* p, int64_t bytes, const char* verb, Site site) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  if (address % bytes)
    fault(std::string(verb) + " " + std::to_string(bytes) + " bytes of global memory: misaligned", site);
  return &histories_[address / 16][address % 16];
}

void GlobalMemory::read(const void* p, int64_t bytes, Site site) {
  note_read(histories(p, bytes, "reads", site), bytes, 0, stamp_here(site), place_of(p), site);
}

void GlobalMemory::load(const void* p, void* value, int64_t bytes, Site site) {
  read(p, bytes, site);
  std::memcpy(value, p, bytes);
}

void GlobalMemory::store(void* p, const void* value, int64_t bytes, Site site) {
  note_write(histories(p, bytes, "writes", site), bytes, 0, stamp_here(site), place_of(p), site);
  std::memcpy(p, value, bytes);
}

uint32_t GlobalMemory::load_relaxed(const uint32_t* p, Site site) {
  note_read(histories(p, sizeof *p, "reads", site), sizeof *p, 0, stamp_here(site, true), place_of(p), site);
  const auto number = unseen_.empty() ? numbers_.end() : numbers_.find(p);
  if (number == numbers_.end()) return *p;
  if (const auto word = unseen_.find(number->second); word != unseen_.end()) {
    const std::deque<Store>& stores = word->second.stores;
    for (auto store = stores.rbegin(); store != stores.rend(); ++store)
      if (static_cast<int>(store->stamp.thread) == self->number) return store->value;
    if (is_late(word->first)) looked_for_.insert(word->first);
  }
  return *p;
}

void GlobalMemory::store_relaxed(uint32_t* p, uint32_t value, Site site) {
  const Stamp mine = stamp_here(site, true);
  note_write(histories(p, sizeof *p, "writes", site), sizeof *p, 0, mine, place_of(p), site);
  const int64_t number = numbers_.emplace(p, static_cast<int64_t>(numbers_.size())).first->second;
  Word& word = unseen_[number];
  word.address = p;
  word.stores.push_back({value, mine});
  if (is_late(number)) return machine->changed();  // whoever waits for it is to look for it again
  soon_.push_back(number);
  if (machine->has_pace() || machine->random().one_in(2)) show(num_unseen() - 1);
}

void GlobalMemory::fence() {
  bool any = false;
  for (auto word = unseen_.begin(); word != unseen_.end();) {
    // Everyone sees the stores to one word in the same order: one that is known takes those before it along.
    const std::deque<Store>& stores = word->second.stores;
    const auto known = std::find_if(stores.rbegin(), stores.rend(), [](const Store& s) { return ordered(s.stamp); });
    const auto rest = known - stores.rbegin(), count = stores.rend() - known;
    for (auto n = count; n > 0; --n) word = show_oldest(word);
    any |= count > 0;
    if (rest > 0) ++word;
  }
  if (!any) return;
  soon_.clear();
  for (const auto& [number, word] : unseen_)
    if (!is_late(number)) soon_.insert(soon_.end(), word.stores.size(), number);
}

void GlobalMemory::show(uint32_t which) {
  const int64_t number = soon_[which];
  soon_[which] = soon_.back();
  soon_.pop_back();
  show_oldest(unseen_.find(number));
}

bool GlobalMemory::show_late() {
  const bool any = !looked_for_.empty();
  for (const int64_t number : std::exchange(looked_for_, {}))
    if (const auto word = unseen_.find(number); word != unseen_.end()) show_oldest(word);
  return any;
}

// One in 32, others in every launch; none where those who wait poll, so that somebody can always move.
bool GlobalMemory::is_late(int64_t number) const {
  if (machine->has_pace() || waits_are_watched()) return false;
  return (static_cast<uint64_t>(number) + seed_) * 0x9e3779b97f4a7c15 >> 59 == 0;
}

GlobalMemory::Words::iterator GlobalMemory::show_oldest(Words::iterator word) {
  std::deque<Store>& stores = word->second.stores;
  *word->second.address = stores.front().value;
  stores.pop_front();
  machine->changed();
  return stores.empty() ? unseen_.erase(word) : word;
}

}  // namespace sim
