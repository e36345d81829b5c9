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

uint64_t read_word(const void* p, int64_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, p, bytes);
  return value;
}

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

uint64_t GlobalMemory::load_relaxed(const void* p, int64_t bytes, Site site) {
  note_read(histories(p, bytes, "reads", site), bytes, 0, stamp_here(site, true), place_of(p), site);
  if (const auto found = unseen_.find(p); found != unseen_.end()) {
    const Stores& stores = found->second;
    for (auto store = stores.rbegin(); store != stores.rend(); ++store)
      if (static_cast<int>(store->stamp.thread) == self->number) return store->value;
    if (is_late(p)) looked_for_.insert(static_cast<char*>(const_cast<void*>(p)));
  }
  return read_word(p, bytes);
}

uint64_t GlobalMemory::load_acquire(const void* p, int64_t bytes, Site site) {
  const uint64_t value = load_relaxed(p, bytes, site);
  if (const auto found = released_.find(p); found != released_.end())
    self->learned = join(self->learned, found->second);
  return value;
}

void GlobalMemory::store_relaxed(void* p, uint64_t value, int64_t bytes, Site site) {
  const Stamp mine = stamp_here(site, true);
  note_write(histories(p, bytes, "writes", site), bytes, 0, mine, place_of(p), site);
  unseen_[p].push_back({value, bytes, mine});
  if (is_late(p)) return machine->changed();  // whoever waits for it is to look for it again
  soon_.push_back(static_cast<char*>(p));
  if (machine->has_pace() || machine->random().one_in(2)) show(num_unseen() - 1);
}

void GlobalMemory::store_release(void* p, uint64_t value, int64_t bytes, Site site) {
  publish();
  note_write(histories(p, bytes, "writes", site), bytes, 0, stamp_here(site, true), place_of(p), site);
  std::memcpy(p, &value, bytes);
  Release release;
  release.add(knowledge_of(*self));
  released_[p] = release.take();
  machine->changed();
}

uint64_t GlobalMemory::add(void* p, uint64_t value, int64_t bytes, bool release, Site site) {
  if (release) publish();
  note_write(histories(p, bytes, "writes", site), bytes, 0, stamp_here(site, true), place_of(p), site);
  const uint64_t old = read_word(p, bytes), sum = old + value;
  std::memcpy(p, &sum, bytes);
  if (release) {
    Release mine;
    mine.add(knowledge_of(*self));
    ClockPointer& released = released_[p];  // the releases before this one stay in force
    released = join(released, mine.take());
  }
  machine->changed();
  return old;
}

void GlobalMemory::publish() {
  const auto known = [](const Store& store) { return ordered(store.stamp); };
  std::vector<char*> shown;  // an address for each of its stores that is known
  for (const auto& [p, stores] : unseen_)
    shown.insert(shown.end(), std::count_if(stores.begin(), stores.end(), known),
                 static_cast<char*>(const_cast<void*>(p)));
  for (char* p : shown) {
    // Everyone sees the stores to one address in the same order.
    const auto found = unseen_.find(p);
    if (found == unseen_.end() || std::none_of(found->second.begin(), found->second.end(), known)) continue;
    make_visible(p, found->second);
  }
  if (shown.empty()) return;
  soon_.clear();
  for (const auto& [p, stores] : unseen_)
    if (!is_late(p)) soon_.insert(soon_.end(), stores.size(), static_cast<char*>(const_cast<void*>(p)));
}

void GlobalMemory::show(uint32_t which) {
  char* const p = soon_[which];
  soon_[which] = soon_.back();
  soon_.pop_back();
  make_visible(p, unseen_.at(p));
}

bool GlobalMemory::show_late() {
  const bool any = !looked_for_.empty();
  for (char* p : std::exchange(looked_for_, {})) {
    const auto found = unseen_.find(p);
    if (found != unseen_.end()) make_visible(p, found->second);
  }
  return any;
}

// One in 32, others in every launch; none where those who wait poll, so that somebody can always move.
bool GlobalMemory::is_late(const void* p) const {
  if (machine->has_pace() || waits_are_watched()) return false;
  const uint64_t mixed = (reinterpret_cast<uintptr_t>(p) / 4 + late_) * 0x9e3779b97f4a7c15;
  return mixed >> 59 == 0;
}

void GlobalMemory::make_visible(char* p, Stores& stores) {
  const Store store = stores.front();
  stores.pop_front();
  if (stores.empty()) unseen_.erase(p);
  std::memcpy(p, &store.value, store.bytes);
  released_.erase(p);  // who acquires this value learns nothing
  machine->changed();
}

}  // namespace sim
