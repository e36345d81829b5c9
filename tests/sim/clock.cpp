#include "clock.h"

#include <algorithm>

#include "machine.h"

namespace sim {

Time now = 1;

void Clock::learn(uint32_t key, Time time) {
  Time& known = until_[key];
  known = std::max(known, time);
}

bool Clock::reaches(uint32_t key, Time time) const {
  const auto found = until_.find(key);
  return found != until_.end() && time <= found->second;
}

// A warp or block goes by the number of its first thread.
void Clock::learn_warp(int number, Time time) { learn(kWarp + machine->first_of_warp(number), time); }
void Clock::learn_block(int number, Time time) { learn(kBlock + machine->first_of_block(number), time); }

void Clock::learn(const Clock& other) {
  for (const auto& [key, time] : other.until_) learn(key, time);
  cluster_runs_ |= other.cluster_runs_;
}

bool Clock::covers(int number, Time time) const {
  if (reaches(kThread + number, time)) return true;
  if (!machine->find_thread(number)) return false;
  return reaches(kBlock + machine->first_of_block(number), time) ||
         reaches(kWarp + machine->first_of_warp(number), time);
}

ClockPointer join(const ClockPointer& a, const ClockPointer& b) {
  static ClockPointer last_a, last_b, last;
  if (!b || a == b) return a;
  if (!a) return b;
  if (a != last_a || b != last_b) {
    auto joined = std::make_shared<Clock>(*a);
    joined->learn(*b);
    last_a = a;
    last_b = b;
    last = std::move(joined);
  }
  return last;
}

Knowledge knowledge_of(const Thread& thread) {
  return {thread.number, now++, thread.warp->known, thread.block->known, thread.learned};
}

void Release::add(const Knowledge& knowledge) {
  direct_.learn_thread(knowledge.number, knowledge.time);
  if (knowledge.warp_known) direct_.learn_warp(knowledge.number, knowledge.warp_known);
  if (knowledge.block_known) direct_.learn_block(knowledge.number, knowledge.block_known);
  indirect_ = join(indirect_, knowledge.learned);
}

void Release::add_actor(int number, Time time) { direct_.learn_thread(number, time); }

ClockPointer Release::take() {
  const ClockPointer clock = join(std::make_shared<Clock>(std::move(direct_)), indirect_);
  *this = {};
  return clock;
}

}  // namespace sim
