#include "timing.h"

#include <algorithm>

#include "busy.h"

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
  const bool within_warp = &warp == current_ && delay == Delay::kNone;  // as in a shuffle
  if (!within_warp) warp.order = ptx::later(warp.order, plus(seen_, cost.part, cost.cycles));
  warp.resumed |= 1u << thread.lane;
  warp.next.instruction = nullptr;
  if (&warp != current_) queue_.push({now_, now_, warp.number});
}

void Timing::later(Delay delay, std::function<void()> event) {
  const DelayCost& cost = delays[static_cast<int>(delay)];
  const Moment moment = plus(seen_, cost.part, cost.cycles);
  queue_.push({moment.at, 0, next_event_});
  events_[next_event_++] = {moment, std::move(event)};
}

bool Timing::take_turn(Lane& lane) {
  TimedWarp& warp = warp_of(*self);
  warp.lanes[self->lane] = &lane;
  warp.waiting |= 1u << self->lane;
  warp.next.instruction = nullptr;
  if (warp.registers.size() < static_cast<size_t>(lane.num_slots)) warp.registers.resize(lane.num_slots);
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
      now_ = turn.at;
      current_ = &warps_[turn.number];
    } else {
      const Event event = std::move(events_.at(turn.number));
      events_.erase(turn.number);
      now_ = event.at.at;
      seen_ = event.at;
      event.happens();
    }
  }
}

void Timing::look_ahead(TimedWarp& warp) {
  TimedWarp::Next& next = warp.next;
  next.instruction = nullptr;
  for (uint32_t lanes = warp.waiting; lanes; lanes &= lanes - 1) {
    const int n = __builtin_ctz(lanes);
    const Instruction* const i = warp.lanes[n]->next;
    if (!next.instruction || i < next.instruction) {
      next.instruction = i;
      next.group = 0;
    }
    if (i == next.instruction) next.group |= 1u << n;
  }
  const Instruction& i = *next.instruction;
  next.active = next.group;
  if (i.guard != kNone) {
    next.active = 0;
    for (uint32_t lanes = next.group; lanes; lanes &= lanes - 1) {
      const int n = __builtin_ctz(lanes);
      if (warp.lanes[n]->get<bool>(i, i.guard) != i.guard_negated) next.active |= 1u << n;
    }
  }

  const Moment* from = &warp.order;
  const auto wait_for = [&from](const Moment& moment) {
    if (moment.at > from->at) from = &moment;
  };
  if (keeps_order(i)) wait_for(warp.issued);
  if (i.guard != kNone) wait_for(warp.registers[i.guard]);
  for (int n = i.num_written; n < i.num_operands; ++n)
    if (i.operand[n] >= kFirstRegister) wait_for(warp.registers[i.operand[n]]);
  if (i.work == Work::kFence && next.active) wait_for(stored_[warp.threads->block->slot]);
  if (i.work == Work::kCopyWait) {
    const int open = warp.lanes[__builtin_ctz(next.group)]->integer(i, 0);
    for (int n = 0; n < static_cast<int>(warp.copies.size()) - open; ++n) wait_for(warp.copies[n]);
  }
  next.from = *from;
  next.busy = next.active ? busy_cycles(i, warp.lanes, next.active) : 0;
}

// Whether the warp's next instruction is issued now.
bool Timing::issue(TimedWarp& warp) {
  if (!warp.waiting) return false;
  if (!warp.next.instruction) look_ahead(warp);
  const Instruction& i = *warp.next.instruction;
  const Moment& from = warp.next.from;
  const Cycle at = find_slot(warp);
  // A warp may be ahead of the others by an addition, unless it has to wait its turn: to queue for each instruction
  // would take twice as long.
  constexpr Cycle kAhead = 4;
  const bool waits =
      keeps_order(i) || (costs[static_cast<int>(i.work)].slots && at > now_ + (at > from.at ? 0 : kAhead));
  if (waits && at > now_) {
    const Turn turn{at, from.at, warp.number};
    if (!queue_.empty() && turn < queue_.top()) {  // somebody else comes first
      queue_.push(turn);
      return false;
    }
    now_ = at;
  }
  const Moment slot = plus(from, Part::kSlots, static_cast<int>(at - from.at));
  warp.waiting &= ~warp.next.group;
  warp.group = warp.next.group;
  if (keeps_order(i)) {
    const Cost& cost = costs[static_cast<int>(i.work)];
    seen_ = slot;
    warp.order = cost.holds_up ? plus(slot, cost.part, cost.latency) : slot;
  }
  account(warp, slot);
  warp.next.instruction = nullptr;
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

Timing::Scheduler& Timing::scheduler_of(const TimedWarp& warp) {
  return sms_[warp.threads->block->slot % sms_.size()].schedulers[warp.number % kSchedulers];
}
// Of its next instruction.
Calendar& Timing::pipe_of(const TimedWarp& warp) {
  Sm& sm = sms_[warp.threads->block->slot % sms_.size()];
  const Pipe pipe = costs[static_cast<int>(warp.next.instruction->work)].pipe;
  if (pipe == Pipe::kShared) return sm.shared;
  return pipe == Pipe::kL2 ? sm.l2 : scheduler_of(warp).pipes[static_cast<int>(pipe)];
}

// The first that is free for the warp's next instruction.
Cycle Timing::find_slot(TimedWarp& warp) {
  const int slots = costs[static_cast<int>(warp.next.instruction->work)].slots;
  Cycle at = warp.next.from.at;
  if (!slots) return at;
  const Calendar& of_scheduler = scheduler_of(warp).slots;
  const Calendar& pipe = pipe_of(warp);
  while (true) {
    const Cycle slot = of_scheduler.find(at, slots);
    at = pipe.find(slot, warp.next.busy);
    if (at == slot) return slot;
  }
}

// What is issued takes its slots and its pipe, and has its results later.
void Timing::account(TimedWarp& warp, const Moment& at) {
  const Instruction& i = *warp.next.instruction;
  const Cost& cost = costs[static_cast<int>(i.work)];
  if (at.at > warp.issued.at) warp.issued = at;
  if (at.at > end_.at) end_ = at;
  if (cost.slots) scheduler_of(warp).slots.take(at.at, cost.slots);
  if (!warp.next.active) return;
  pipe_of(warp).take(at.at, warp.next.busy);
  // The last of what does not fit into one cycle of memory comes so much later.
  const bool in_memory = cost.pipe == Pipe::kShared || cost.pipe == Pipe::kL2;
  const Moment done = plus(at, cost.part, cost.latency + (in_memory ? warp.next.busy - 1 : 0));
  for (int n = 0; n < i.num_written; ++n)
    if (i.operand[n] >= kFirstRegister) warp.registers[i.operand[n]] = done;
  if (i.work == Work::kGlobalStore) {
    Moment& stored = stored_[warp.threads->block->slot];
    stored = ptx::later(stored, done);
  }
  if (i.work == Work::kCopy) warp.open_copies = ptx::later(warp.open_copies, done);
  if (i.work == Work::kCopyGroup) {
    warp.copies.push_back(warp.open_copies);
    warp.open_copies = {};
  }
}

}  // namespace sim::ptx
