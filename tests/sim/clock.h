// What a thread knows to have happened. Time counts synchronisations, over all threads. A barrier that completes at
// time t makes all that its threads did up to t happen before what they do next: Block::known and Warp::known hold
// such times. What comes from elsewhere, through mbarriers, cluster barriers and flags in global memory, is a Clock.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace sim {

using Time = uint64_t;

struct Thread;

// The present. Accesses carry it; a release takes it and moves it on.
extern Time now;

class Clock {
 public:
  // Everything that a thread, a warp or a block did up to a time. Keys are made by the functions below.
  struct Entry {
    uint32_t key;
    Time time;
  };

  Clock(std::vector<Entry> entries, bool cluster_runs);
  Clock(const Clock& a, const Clock& b);  // what one or the other knows

  // Whether it is known what the thread with this number (see Thread) did at `time`.
  bool covers(int number, Time time) const;
  // Whether it is known that all blocks of the cluster have started.
  bool cluster_runs() const { return cluster_runs_; }

 private:
  bool reaches(uint32_t key, Time time) const;

  std::vector<Entry> entries_;  // ascending by key, each once
  bool cluster_runs_;
};

using ClockPointer = std::shared_ptr<const Clock>;  // null: nothing

// What one or the other knows. Cheap where many threads join the same two.
ClockPointer join(const ClockPointer& a, const ClockPointer& b);

// All that a thread did and knew when it was asked.
struct Knowledge {
  int number;
  Time time, warp_known, block_known;
  ClockPointer learned;
};
// What the thread does from here on is not part of it.
Knowledge knowledge_of(const Thread& thread);

// What several threads have released and others may acquire.
class Release {
 public:
  void add(const Knowledge& knowledge);
  void add_actor(int number, Time time);  // see Machine::new_actor
  void add_cluster_runs() { cluster_runs_ = true; }
  ClockPointer take();  // and start anew

 private:
  std::vector<Clock::Entry> direct_;
  ClockPointer indirect_;
  bool cluster_runs_ = false;
};

}  // namespace sim
