#include "clock.h"

#include <algorithm>
#include <map>
#include <utility>

#include "machine.h"

namespace sim {

Time now = 1;

namespace {

using Entry = Clock::Entry;

// A warp or block goes by the number of its first thread.
uint32_t thread_key(int number) { return static_cast<uint32_t>(number); }
uint32_t warp_key(int number) { return 1u << 20 | static_cast<uint32_t>(machine->first_of_warp(number)); }
uint32_t block_key(int number) { return 2u << 20 | static_cast<uint32_t>(machine->first_of_block(number)); }

bool by_key(const Entry& a, const Entry& b) { return a.key < b.key; }

// Of neighbours with one key the later time.
void unite(std::vector<Entry>& entries) {
  size_t kept = 0;
  for (const Entry& entry : entries) {
    if (kept && entries[kept - 1].key == entry.key) {
      entries[kept - 1].time = std::max(entries[kept - 1].time, entry.time);
    } else {
      entries[kept++] = entry;
    }
  }
  entries.resize(kept);
}

}  // namespace

Clock::Clock(std::vector<Entry> entries, bool cluster_runs)
    : entries_(std::move(entries)), cluster_runs_(cluster_runs) {
  std::sort(entries_.begin(), entries_.end(), by_key);
  unite(entries_);
}

Clock::Clock(const Clock& a, const Clock& b) : cluster_runs_(a.cluster_runs_ || b.cluster_runs_) {
  entries_.resize(a.entries_.size() + b.entries_.size());
  std::merge(a.entries_.begin(), a.entries_.end(), b.entries_.begin(), b.entries_.end(), entries_.begin(), by_key);
  unite(entries_);
}

bool Clock::reaches(uint32_t key, Time time) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), Entry{key, 0}, by_key);
  return found != entries_.end() && found->key == key && time <= found->time;
}

bool Clock::covers(int number, Time time) const {
  if (reaches(thread_key(number), time)) return true;
  if (!machine->find_thread(number)) return false;
  return reaches(block_key(number), time) || reaches(warp_key(number), time);
}

ClockPointer join(const ClockPointer& a, const ClockPointer& b) {
  constexpr size_t kMostRemembered = 64;
  static std::map<std::pair<ClockPointer, ClockPointer>, ClockPointer> remembered;
  if (!b || a == b) return a;
  if (!a) return b;
  if (remembered.size() > kMostRemembered) remembered.clear();
  ClockPointer& joined = remembered[{a, b}];
  if (!joined) joined = std::make_shared<Clock>(*a, *b);
  return joined;
}

Knowledge knowledge_of(const Thread& thread) {
  return {thread.number, now++, thread.warp->known, thread.block->known, thread.learned};
}

void Release::add(const Knowledge& knowledge) {
  direct_.push_back({thread_key(knowledge.number), knowledge.time});
  if (knowledge.warp_known) direct_.push_back({warp_key(knowledge.number), knowledge.warp_known});
  if (knowledge.block_known) direct_.push_back({block_key(knowledge.number), knowledge.block_known});
  indirect_ = join(indirect_, knowledge.learned);
}

void Release::add_actor(int number, Time time) { direct_.push_back({thread_key(number), time}); }

ClockPointer Release::take() {
  const ClockPointer clock = join(std::make_shared<Clock>(std::move(direct_), cluster_runs_), indirect_);
  *this = {};
  return clock;
}

}  // namespace sim
