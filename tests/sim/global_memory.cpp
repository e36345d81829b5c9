#include "global_memory.h"

#include <cstring>
#include <string>

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
  for (auto store = unseen_.rbegin(); store != unseen_.rend(); ++store) {
    if (store->address == p && static_cast<int>(store->stamp.thread) == self->number) return store->value;
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
  unseen_.push_back({static_cast<char*>(p), value, bytes, mine});
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
  for (size_t i = 0; i < unseen_.size();) {
    if (ordered(unseen_[i].stamp)) {
      make_visible(i);
    } else {
      ++i;
    }
  }
}

void GlobalMemory::show(uint32_t which) {
  // Everyone sees the stores to one address in the same order, a thread's own order.
  for (size_t i = 0;; ++i) {
    if (unseen_[i].address == unseen_[which].address && unseen_[i].stamp.thread == unseen_[which].stamp.thread) {
      return make_visible(i);
    }
  }
}

void GlobalMemory::make_visible(size_t index) {
  const Store store = unseen_[index];
  unseen_.erase(unseen_.begin() + static_cast<std::ptrdiff_t>(index));
  std::memcpy(store.address, &store.value, store.bytes);
  released_.erase(store.address);  // who acquires this value learns nothing
  machine->changed();
}

}  // namespace sim
