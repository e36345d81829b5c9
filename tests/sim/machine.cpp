#include "machine.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "cluster.h"

namespace sim {

Machine* machine = nullptr;
Thread* self = nullptr;

namespace {

std::unique_ptr<Pace> (*make_pace)() = nullptr;
Starved starved;
bool found_starved = false;

constexpr int kDefaultResidentThreads = 4096;

// Thrown in a fiber that is not to go on.
struct Abandoned {};

}  // namespace

std::string text(const Site& site) {
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string counted(size_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

std::string text(const Dim& dim) {
  return "(" + std::to_string(dim.x) + ", " + std::to_string(dim.y) + ", " + std::to_string(dim.z) + ")";
}

std::string text(const Thread& thread) {
  return "block " + text(thread.block->index) + " thread " + std::to_string(thread.index);
}

void fault(const std::string& what, Site site) { throw Fault(text(*self) + " at " + text(site) + ": " + what); }

Machine::Machine(const Shape& shape, const std::function<void()>& body, uint64_t seed, int resident_blocks)
    : shape_(shape), body_(body), random_(seed), global_(seed) {
  now = 1;
  // How often a thread loses its turn, and how long a warp keeps it, differ from launch to launch: some bugs show when
  // all threads go forward in step, others when a warp runs far ahead.
  const uint32_t preempt[] = {8, 64, 1u << 30};
  const uint32_t change_warp[] = {1, 16, 256};
  preempt_one_in_ = preempt[random_.below(3)];
  change_warp_one_in_ = change_warp[random_.below(3)];
  if (make_pace) {
    pace_ = make_pace();
    preempt_one_in_ = preempt[2];
  }

  const int num_clusters = shape.blocks.x / shape.cluster * shape.blocks.y * shape.blocks.z;
  if (shape.together) resident_blocks = num_clusters * shape.cluster;
  if (!resident_blocks) resident_blocks = kDefaultResidentThreads / shape.threads;
  const int most = std::min({resident_blocks, kMaxResidentBlocks, kMaxResidentThreads / shape.threads});
  const int num_slots = std::clamp(most / shape.cluster, 1, num_clusters);
  pending_.resize(num_clusters);
  std::iota(pending_.begin(), pending_.end(), 0);
  for (int i = num_clusters - 1; i > 0; --i) std::swap(pending_[i], pending_[random_.below(i + 1)]);
  last_actor_ = num_slots * shape.cluster * shape.threads;
  for (int slot = 0; slot < num_slots; ++slot) {
    clusters_.push_back(std::make_unique<Cluster>());
    free_slots_.push_back(slot);
  }
}

void Machine::start_cluster(int slot) {
  const int number = pending_.back();
  pending_.pop_back();
  const int clusters_x = shape_.blocks.x / shape_.cluster;
  const Dim first{number % clusters_x * shape_.cluster, number / clusters_x % shape_.blocks.y,
                  number / clusters_x / shape_.blocks.y};
  Cluster& cluster = *clusters_[slot];
  last_warp_ = nullptr;  // it may be one of those that go now
  cluster.blocks.resize(shape_.cluster);
  cluster.running = shape_.cluster * shape_.threads;
  cluster.arrived = 0;
  cluster.release = {};
  cluster.released = nullptr;
  for (int rank = 0; rank < shape_.cluster; ++rank) {
    Block& block = cluster.blocks[rank];
    SharedMemory shared = std::move(block.shared);  // keeps its memory
    block = {};
    block.shared = std::move(shared);
    block.shared.reset(shape_.shared_bytes);
    block.index = {first.x + rank, first.y, first.z};
    block.cluster = &cluster;
    block.slot = slot * shape_.cluster + rank;
    block.first_number = block.slot * shape_.threads;
    block.running = shape_.threads;
    block.warps.resize((shape_.threads + kWarpSize - 1) / kWarpSize);
    for (size_t warp = 0; warp < block.warps.size(); ++warp)
      block.warps[warp].held = starts_held(block, static_cast<int>(warp));
    block.threads.resize(shape_.threads);
    for (int i = 0; i < shape_.threads; ++i) {
      Thread& thread = block.threads[i];
      thread.block = &block;
      thread.warp = &block.warps[i / kWarpSize];
      thread.index = i;
      thread.number = block.first_number + i;
      thread.lane = i % kWarpSize;
      if (!thread.lane) thread.warp->threads = &thread;
      ++thread.warp->num_threads;
      thread.fiber.start(stack_of_fiber(thread.number), fiber_main);
      make_ready(thread);
    }
  }
}

void Machine::run() {
  machine = this;
  while (true) {
    while (!pending_.empty() && !free_slots_.empty()) {
      start_cluster(free_slots_.back());
      free_slots_.pop_back();
    }
    if (pace_ ? pace_->idle() : ready_warps_.empty() && held_warps_.empty() && !anything_happens()) break;
    run_next();
    if (fault_) break;
  }
  if (!fault_ && free_slots_.size() < clusters_.size()) fault_ = std::make_unique<Fault>(deadlock());
  if (!fault_) return;
  abandon_fibers();
  throw Fault(*fault_);
}

// Every fiber leaves where it stands, as by an exception, and lets go of what it holds.
void Machine::abandon_fibers() {
  abandoning_ = true;
  for (const auto& cluster : clusters_) {
    for (Block& block : cluster->blocks) {
      for (Thread& thread : block.threads) {
        if (thread.finished) continue;
        self = &thread;
        Fiber::switch_to(main_, thread.fiber);
      }
    }
  }
}

void Machine::fiber_main() {
  Fiber::entered();
  try {
    if (machine->abandoning_) throw Abandoned{};
    machine->body_();
    for (AsyncCopy& copy : self->copies) {
      if (!copy.landed) self->block->shared.land(copy.offset, copy.source, 16);
    }
  } catch (const Abandoned&) {
  } catch (const std::exception& error) {
    machine->fault_ = std::make_unique<Fault>(error.what());
  }
  machine->end_thread();
  __builtin_unreachable();
}

void Machine::end_thread() {
  Thread& thread = *self;
  Block& block = *thread.block;
  Cluster& cluster = *block.cluster;
  thread.finished = true;
  if (abandoning_) Fiber::switch_to(thread.fiber, main_);
  --cluster.running;
  if (--block.running == 0 && block.incoming && !fault_) {
    fault_ =
        std::make_unique<Fault>(text(thread) + ": its block ends before all asynchronous stores to it have landed");
  }
  leave_cluster_barrier(thread);
  if (cluster.running == 0) free_slots_.push_back(block.slot / shape_.cluster);
  if (!fault_ && cluster.running) run_next();
  self = nullptr;  // for the machine to look at what has changed
  Fiber::switch_to(thread.fiber, main_);
}

void Machine::make_ready(Thread& thread, Delay delay) {
  if (pace_) return pace_->ready(thread, delay);
  set_ready(*thread.warp, thread.warp->ready | 1u << thread.lane);
}

void Machine::set_ready(Warp& warp, uint32_t lanes) {
  std::vector<Warp*>& list = list_of(warp);
  if (lanes && !warp.ready) {
    warp.place = static_cast<int>(list.size());
    list.push_back(&warp);
  } else if (!lanes && warp.ready) {
    list[warp.place] = list.back();
    list[warp.place]->place = warp.place;
    list.pop_back();
  }
  warp.ready = lanes;
}

void Machine::hold(Warp& warp, bool held) {
  const uint32_t lanes = warp.ready;
  set_ready(warp, 0);
  warp.held = held;
  set_ready(warp, lanes);
}

bool Machine::starts_held(const Block& block, int warp) const {
  const int number = block.slot * static_cast<int>(block.warps.size()) + warp;
  const bool is_it = starved.what == Starved::What::kWarp    ? number == starved.number
                     : starved.what == Starved::What::kBlock ? block.slot == starved.number
                                                             : false;
  found_starved |= is_it;
  return is_it;
}

bool Machine::self_is_held_back() const { return self->warp->held && !ready_warps_.empty(); }

void Machine::before_others_go_on() {
  if (starved.what != Starved::What::kLast || self->warp->held) return;
  found_starved = true;
  hold(*self->warp, true);
  preempt();
  hold(*self->warp, false);
}

void starve(Starved who) {
  starved = who;
  found_starved = false;
}
bool found_who_starves() { return found_starved; }

Thread* Machine::pick() {
  if (pace_) return pace_->next();
  if (!held_warps_.empty()) {  // whatever can happen without them comes first
    while (ready_warps_.empty() && anything_happens()) continue;
  }
  const std::vector<Warp*>& from = ready_warps_.empty() ? held_warps_ : ready_warps_;
  if (from.empty()) return nullptr;
  const bool stays = last_warp_ && last_warp_->ready && &list_of(*last_warp_) == &from;
  if (!stays || random_.one_in(change_warp_one_in_))
    last_warp_ = from[random_.below(static_cast<uint32_t>(from.size()))];
  Warp& warp = *last_warp_;
  const uint32_t first = random_.below(kWarpSize);
  const uint32_t behind = warp.ready >> first << first;  // the first ready lane from a random one on, around the end
  const int lane = __builtin_ctz(behind ? behind : warp.ready);
  set_ready(warp, warp.ready & ~(1u << lane));
  return &warp.threads[lane];
}

void set_pace(std::unique_ptr<Pace> (*make)()) { make_pace = make; }

void Machine::happen_later(Delay delay, std::function<void()> event) {
  if (pace_) return pace_->later(delay, std::move(event));
  events_.push_back(std::move(event));
}
void Machine::happen_after(Delay delay, std::function<void()> event) {
  pace_ ? pace_->later(delay, std::move(event)) : event();
}

void Machine::changed() {
  ++version_;
  if (pace_) wake_spinning();
}

bool Machine::wake_spinning() {
  if (spinning_.empty() || version_ == woken_version_) return false;
  woken_version_ = version_;
  for (Thread* thread : spinning_) make_ready(*thread);
  spinning_.clear();
  return true;
}

void Machine::wake_spinning(const Warp& warp) {
  const auto its =
      std::partition(spinning_.begin(), spinning_.end(), [&](Thread* thread) { return thread->warp != &warp; });
  for (auto thread = its; thread != spinning_.end(); ++thread) make_ready(**thread);
  spinning_.erase(its, spinning_.end());
}

bool Machine::something_happens() {
  const uint32_t num_events = static_cast<uint32_t>(events_.size());
  if (num_events + global_.num_unseen() == 0) return false;
  const uint32_t which = random_.below(num_events + global_.num_unseen());
  if (which >= num_events) {
    global_.show(which - num_events);
  } else {
    std::swap(events_[which], events_.back());
    const std::function<void()> event = std::move(events_.back());
    events_.pop_back();
    event();
  }
  return true;
}

void Machine::run_next() {
  constexpr uint32_t kHappensOneIn = 8;
  if (!pace_ && random_.one_in(kHappensOneIn)) {
    something_happens();
    wake_spinning();
  }
  Thread* next = pick();
  Thread* last = self;
  if (next == last) return;
  self = next;
  Fiber::switch_to(last ? last->fiber : main_, next ? next->fiber : main_);
  if (abandoning_) throw Abandoned{};
}

void Machine::spin(int64_t version, Site site) {
  if (version != version_) return preempt();
  if (self->warp->meeting.arrived) {  // its warp looks again
    // It is always ready, where lanes that need not look wait for it; but what it looks for comes some day.
    constexpr uint32_t kComesOneIn = 1024;
    if (random_.one_in(kComesOneIn)) global_.show_late();
    return preempt();
  }
  spinning_.push_back(self);
  wait("spin_wait", site);
}

const Thread* Machine::find_thread(int number) const {
  const int slot = number / shape_.threads;
  if (slot >= num_slots()) return nullptr;
  return &clusters_[slot / shape_.cluster]->blocks[slot % shape_.cluster].threads[number % shape_.threads];
}

void Machine::preempt(Delay delay) {
  if (self->fiber.nearly_overflown()) throw Fault(text(*self) + ": stack overflow");
  make_ready(*self, delay);
  run_next();
}

void Machine::wait(const char* what, Site site) {
  if (self->fiber.nearly_overflown()) fault("stack overflow", site);
  self->waits_for = what;
  self->waits_at = site;
  run_next();
}

}  // namespace sim
