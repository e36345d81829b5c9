// What a thread knows to have happened. Time counts synchronisations, over all threads. A barrier that completes at
// time t makes all that its threads did up to t happen before what they do next: Block::known and Warp::known hold
// such times. What comes from elsewhere, through mbarriers, cluster barriers and flags in global memory, is a Clock.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

namespace sim {

using Time = uint64_t;

struct Thread;

// The present. Accesses carry it; a release takes it and moves it on.
extern Time now;

class Clock;
using ClockPointer = std::shared_ptr<const Clock>;  // null: nothing

class Clock {
 public:
  // All that the thread with this number (see Thread) did up to `time`, or its warp, or its block.
  void learn_thread(int number, Time time) { learn(kThread + number, time); }
  void learn_warp(int number, Time time);
  void learn_block(int number, Time time);
  void learn(const Clock& other);

  bool covers(int number, Time time) const;

  // That all blocks of the cluster have started.
  void learn_cluster_runs() { cluster_runs_ = true; }
  bool cluster_runs() const { return cluster_runs_; }

 private:
  static constexpr uint32_t kThread = 0u << 20, kWarp = 1u << 20, kBlock = 2u << 20;
  void learn(uint32_t key, Time time);
  bool reaches(uint32_t key, Time time) const;

  std::unordered_map<uint32_t, Time> until_;
  bool cluster_runs_ = false;
};

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
  void add_cluster_runs() { direct_.learn_cluster_runs(); }
  ClockPointer take();  // and start anew

 private:
  Clock direct_;
  ClockPointer indirect_;
};

}  // namespace sim
