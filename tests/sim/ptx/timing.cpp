#include "timing.h"

#include <algorithm>

#include "memory_cycles.h"

namespace sim::ptx {

Timing* timing = nullptr;
Moment total_time;

Moment later(const Moment& a, const Moment& b) { return b.at > a.at ? b : a; }
Moment plus(Moment moment, Part part, int cycles) {
  moment.at += cycles;
  moment.parts[static_cast<int>(part)] += cycles;
  return moment;
}

Timing::Timing() { timing = this; }
Timing::~Timing() {
  timing = nullptr;
  total_time.at += end_.at;
  for (int n = 0; n < kNumParts; ++n) total_time.parts[n] += end_.parts[n];
}

Timing::TimedWarp& Timing::warp_of(const Thread& thread) {
  const int per_block = static_cast<int>(thread.block->warps.size());
  const int number = thread.block->slot * per_block + thread.index / kWarpSize;
  if (warps_.empty()) {
    warps_.resize(machine->num_slots() * per_block);
    stored_.resize(machine->num_slots());
  }
  TimedWarp& warp = warps_[number];
  warp.number = number;
  warp.threads = thread.warp->threads;
  return warp;
}

void Timing::ready(Thread& thread, Delay delay) {
  TimedWarp& warp = warp_of(thread);
  const DelayCost& cost = delays[static_cast<int>(delay)];
  warp.order = ptx::later(warp.order, plus(now_, cost.part, cost.cycles));
  warp.resumed |= 1u << thread.lane;
  if (&warp != current_) enqueue(warp, now_.at, now_.at);
}

void Timing::later(Delay delay, std::function<void()> event) {
  const DelayCost& cost = delays[static_cast<int>(delay)];
  const Moment moment = plus(now_, cost.part, cost.cycles);
  queue_.push({moment.at, 0, next_event_});
  events_[next_event_++] = {moment, std::move(event)};
}

bool Timing::take_turn(Lane& lane) {
  TimedWarp& warp = warp_of(*self);
  warp.lanes[self->lane] = &lane;
  warp.waiting |= 1u << self->lane;
  machine->wait("its turn", {"", 0});
  return lane.next;
}

bool Timing::idle() const { return queue_.empty() && !current_; }

Thread* Timing::next() {
  while (true) {
    if (current_) {
      for (uint32_t* lanes : {&current_->resumed, &current_->group}) {
        if (!*lanes) continue;
        const int lane = __builtin_ctz(*lanes);
        *lanes &= *lanes - 1;
        return &current_->threads[lane];
      }
      if (issue(*current_)) {
        execute(*current_);
        continue;
      }
      current_ = nullptr;
    }
    if (queue_.empty()) return nullptr;
    const Turn turn = queue_.top();
    queue_.pop();
    if (turn.number >= 0) {
      now_.at = turn.at;
      current_ = &warps_[turn.number];
    } else {
      const Event event = std::move(events_.at(turn.number));
      events_.erase(turn.number);
      now_ = event.at;
      event.happens();
    }
  }
}

// Whether the warp's next instruction can be issued now.
bool Timing::issue(TimedWarp& warp) {
  if (!warp.waiting) return false;
  const Instruction* at = nullptr;
  for (uint32_t lanes = warp.waiting; lanes; lanes &= lanes - 1) {
    const Instruction* const next = warp.lanes[__builtin_ctz(lanes)]->next;
    if (!at || next < at) at = next;
  }
  const Instruction& i = *at;
  uint32_t group = 0, active = 0;
  for (uint32_t lanes = warp.waiting; lanes; lanes &= lanes - 1) {
    const int n = __builtin_ctz(lanes);
    const Lane& lane = *warp.lanes[n];
    if (lane.next != at) continue;
    group |= 1u << n;
    if (i.guard == kNone || lane.get<bool>(i, i.guard) != i.guard_negated) active |= 1u << n;
  }

  const bool ordered = keeps_order(i);
  Moment from = warp.order;
  if (ordered) from = ptx::later(from, warp.issued);
  if (i.guard != kNone) from = ptx::later(from, *result(warp, i.guard));
  for (int n = i.num_written; n < i.num_operands; ++n)
    if (i.operand[n] >= kFirstRegister) from = ptx::later(from, *result(warp, i.operand[n]));
  if (i.work == Work::kRelease && active) from = ptx::later(from, stored_[warp.threads->block->slot]);
  if (i.work == Work::kCopyWait) {
    const int open = static_cast<int>(warp.lanes[__builtin_ctz(group)]->get<int32_t>(i, i.operand[0]));
    const int done = static_cast<int>(warp.copies.size()) - open;
    for (int n = 0; n < done; ++n) from = ptx::later(from, warp.copies[n]);
    if (done > 0) warp.copies.erase(warp.copies.begin(), warp.copies.begin() + done);
  }
  const int cycles = active ? memory_cycles(i, warp.lanes, active) : 0;
  const Moment slot = find_slot(warp, i, from, cycles);
  if (slot.at > now_.at) {
    enqueue(warp, slot.at, from.at);
    return false;
  }
  warp.waiting &= ~group;
  warp.group = group;
  if (ordered) {
    now_ = warp.order = slot;
    const Cost& cost = costs[static_cast<int>(i.work)];
    if (cost.holds_up) warp.order = plus(slot, cost.part, cost.latency);
  }
  account(warp, i, slot, active ? cycles : -1);
  return true;
}

// The group's instruction, unless lanes may wait in it: then it is left to their own fibers.
void Timing::execute(TimedWarp& warp) {
  if (may_wait(*warp.lanes[__builtin_ctz(warp.group)]->next)) return;
  Thread* const caller = self;
  for (; warp.group; warp.group &= warp.group - 1) {
    const int n = __builtin_ctz(warp.group);
    self = &warp.threads[n];
    try {
      warp.lanes[n]->step();
    } catch (...) {
      self = caller;
      throw;
    }
    (warp.lanes[n]->next ? warp.waiting : warp.resumed) |= 1u << n;
  }
  self = caller;
}

Moment* Timing::result(TimedWarp& warp, int16_t slot) {
  if (static_cast<size_t>(slot) >= warp.registers.size()) warp.registers.resize(slot + 64);
  return &warp.registers[slot];
}

Moment Timing::find_slot(TimedWarp& warp, const Instruction& i, Moment from, int memory_cycles) {
  const Cost& cost = costs[static_cast<int>(i.work)];
  if (!cost.slots) return from;
  const Block& block = *warp.threads->block;
  Sm& sm = sms_[block.slot % kSms];
  Scheduler& scheduler = sm.schedulers[warp.number % kSchedulers];
  const bool in_memory = cost.pipe == Pipe::kMemory;
  const Calendar& pipe = in_memory ? sm.memory : scheduler.pipes[static_cast<int>(cost.pipe)];
  const int busy = in_memory ? memory_cycles : cost.busy;
  Cycle at = from.at;
  while (true) {
    const Cycle slot = scheduler.slots.find(at, cost.slots);
    at = busy ? pipe.find(slot, busy) : slot;
    if (at == slot) return plus(from, Part::kSlots, static_cast<int>(at - from.at));
  }
}

// What was issued takes its slots and pipe, and has its results later; memory_cycles < 0: no lane executes it.
void Timing::account(TimedWarp& warp, const Instruction& i, const Moment& at, int memory_cycles) {
  const Cost& cost = costs[static_cast<int>(i.work)];
  const Block& block = *warp.threads->block;
  Sm& sm = sms_[block.slot % kSms];
  Scheduler& scheduler = sm.schedulers[warp.number % kSchedulers];
  warp.issued = ptx::later(warp.issued, at);
  end_ = ptx::later(end_, at);
  if (cost.slots) scheduler.slots.take(at.at, cost.slots);
  if (memory_cycles < 0) return;
  const bool in_memory = cost.pipe == Pipe::kMemory;
  const int busy = in_memory ? memory_cycles : cost.busy;
  if (busy) (in_memory ? sm.memory : scheduler.pipes[static_cast<int>(cost.pipe)]).take(at.at, busy);
  const Moment done = plus(at, cost.part, cost.latency + (in_memory && busy ? busy - 1 : 0));
  for (int n = 0; n < i.num_written; ++n)
    if (i.operand[n] >= kFirstRegister) *result(warp, i.operand[n]) = done;
  if (i.work == Work::kGlobalStore || i.work == Work::kRelease) {
    Moment& stored = stored_[block.slot];
    stored = ptx::later(stored, done);
  }
  if (i.work == Work::kCopy) warp.open_copies = ptx::later(warp.open_copies, done);
  if (i.work == Work::kCopyGroup) {
    warp.copies.push_back(warp.open_copies);
    warp.open_copies = {};
  }
}

}  // namespace sim::ptx
