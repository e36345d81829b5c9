// The machine that kernels run on: threads, warps, blocks and clusters, who waits for what, and who runs next.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "clock.h"
#include "fiber.h"
#include "global_memory.h"
#include "pace.h"
#include "random.h"
#include "shared_memory.h"
#include "sim.h"

namespace sim {

constexpr int kWarpSize = 32;
constexpr int kMaxResidentBlocks = 1 << 12;
constexpr int kMaxResidentThreads = 1 << 18;

// A place in a kernel. As a default argument Site::here() is where the caller stands.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
std::string text(const Site& site);

struct Dim {
  int x, y, z;
};
struct Shape {
  Dim blocks;
  int threads;
  int64_t shared_bytes;
  int cluster;
  bool together;  // all blocks at once, or none
};

struct Warp;
struct Block;
struct Cluster;

// 16 bytes on their way from global to shared memory.
struct AsyncCopy {
  int64_t offset;
  const void* source;
  int group;
  bool landed;
};

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int index = 0;   // in its block
  int number = 0;  // among all that have room on the machine
  int lane = 0;
  bool finished = false;
  const char* waits_for = nullptr;
  Site waits_at{};
  std::vector<AsyncCopy> copies;
  int closed_groups = 0;
  bool in_cluster_barrier = false;  // has arrived and not waited
  int64_t cluster_phase = 0;        // that it arrived in
  ClockPointer learned;             // beyond Block::known and Warp::known
};

// Something that several threads come to, and nobody leaves before the last has come.
struct Meeting {
  const char* name = nullptr;
  Site site{};
  int arrived = 0;
};

// Gets every lane's deposit once all are there.
using Complete = void (*)(Warp& warp, void* const (&deposits)[kWarpSize]);

struct Warp {
  Thread* threads = nullptr;
  int num_threads = 0;
  uint32_t ready = 0;  // lanes that may run
  int place = 0;       // in the machine's list of warps with such lanes
  bool held = false;   // runs only when nobody else can move
  Meeting meeting;
  void* deposits[kWarpSize] = {};
  Time known = 0;  // what the warp did up to here happened before what its lanes do now
  // Of compiled code: the instruction that all lanes are to execute as one, and how many have come to it.
  const void* aligned = nullptr;
  int aligned_lanes = 0;
};

// See cluster.h.
struct NamedBarrier {
  int expected = 0;  // threads
  int missing = 0;   // of them; none: nobody has come yet
  Release release;
  std::vector<Thread*> waiting;
};
struct MBarrier {
  int count = 0;        // arrivals in a phase
  int missing = 0;      // of this phase
  int64_t bytes = 0;    // announced and not yet arrived
  int64_t phase = 0;    // that is under way
  int initialiser = 0;  // Thread::number
  bool fenced = false;
  int actor = 0;          // stands for the asynchronous stores
  Release release;        // of this phase
  ClockPointer released;  // of the phase before
  std::vector<Thread*> waiting;
};

struct Block {
  Dim index{};
  Cluster* cluster = nullptr;
  int slot = 0;          // its place on the machine
  int first_number = 0;  // Thread::number of its first thread
  int running = 0;       // threads
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Meeting barrier;
  Time known = 0;  // as for a warp
  SharedMemory shared;
  int incoming = 0;  // asynchronous stores from other blocks that have not landed
  NamedBarrier named_barriers[16];
  std::unordered_map<int64_t, MBarrier> mbarriers;  // by offset in shared memory
};

struct Cluster {
  std::vector<Block> blocks;
  int running = 0;  // threads
  // Its barrier.
  int arrived = 0;
  int64_t phase = 0;
  Release release;
  ClockPointer released;  // of the phase before
  std::vector<Thread*> waiting;
};

class Machine {
 public:
  Machine(const Shape& shape, const std::function<void()>& body, uint64_t seed, int max_resident_blocks);

  // Runs every block; throws Fault.
  void run();

  const Shape& shape() const { return shape_; }
  Random& random() { return random_; }
  GlobalMemory& global() { return global_; }

  int num_slots() const { return static_cast<int>(clusters_.size()) * shape_.cluster; }  // places for blocks
  Block& block_in(int slot) { return clusters_[slot / shape_.cluster]->blocks[slot % shape_.cluster]; }
  const Thread* find_thread(int number) const;  // null for numbers that are no thread's
  int first_of_block(int number) const { return number / shape_.threads * shape_.threads; }
  int first_of_warp(int number) const { return number - number % shape_.threads % kWarpSize; }
  // A number that is no thread's, for what happens by itself.
  int new_actor() { return ++last_actor_; }

  // ---- called by fibers

  bool has_pace() const { return pace_ != nullptr; }
  // The calling thread may lose its turn here.
  void maybe_preempt() {
    if ((self_is_held_back() || random_.one_in(preempt_one_in_)) && !pace_) preempt();
  }
  // The calling thread is the last that others wait for: where such are starved, its warp does not go on before nobody
  // else can move.
  void before_others_go_on();
  void preempt(Delay delay = Delay::kNone);
  // Gives the turn away until somebody calls make_ready.
  void wait(const char* what, Site site);
  void make_ready(Thread& thread, Delay delay = Delay::kNone);
  // All lanes of the calling thread's warp meet; the last to come runs `complete`.
  void meet_warp(const char* name, Site site, void* deposit, Complete complete);
  void meet_block(const char* name, Site site);
  // What is to happen at any later time, or, at a pace, after `delay`.
  void happen_later(Delay delay, std::function<void()> event);
  // What happens now, or, at a pace, after `delay`.
  void happen_after(Delay delay, std::function<void()> event);
  // A spin-wait: version() is read, then the condition is found false, then spin() waits for a change since then.
  int64_t version() const { return version_; }
  void changed();
  void spin(int64_t version, Site site);

 private:
  void start_cluster(int slot);
  void set_ready(Warp& warp, uint32_t lanes);
  void hold(Warp& warp, bool held);
  bool starts_held(const Block& block, int warp) const;
  bool self_is_held_back() const;
  std::vector<Warp*>& list_of(const Warp& warp) { return warp.held ? held_warps_ : ready_warps_; }
  Thread* pick();
  bool arrive(Meeting& meeting, int expected, const char* name, Site site);
  void run_next();
  void end_thread();
  bool something_happens();
  bool anything_happens() { return wake_spinning() || something_happens() || global_.show_late(); }
  bool wake_spinning();
  void wake_spinning(const Warp& warp);
  void abandon_fibers();
  [[noreturn]] static void fiber_main();
  std::string deadlock() const;

  Shape shape_;
  const std::function<void()>& body_;
  Random random_;
  std::unique_ptr<Pace> pace_;
  uint32_t preempt_one_in_;
  uint32_t change_warp_one_in_;
  std::vector<int> pending_;  // clusters not started, in the order in which they will be, last first
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<int> free_slots_;
  std::vector<Warp*> ready_warps_, held_warps_;  // with lanes that may run
  Warp* last_warp_ = nullptr;
  std::vector<Thread*> spinning_;
  int64_t version_ = 0, woken_version_ = 0;
  std::vector<std::function<void()>> events_;
  GlobalMemory global_;
  int last_actor_ = 0;
  Fiber main_;
  std::unique_ptr<Fault> fault_;
  bool abandoning_ = false;
};

// The machine that is running, and the thread whose turn it is. One grid runs at a time in a process.
extern Machine* machine;
extern Thread* self;

// Ends the launch from within a fiber: "<where the calling thread is>: <what>".
[[noreturn]] void fault(const std::string& what, Site site);
std::string text(const Thread& thread);
std::string text(const Dim& dim);
std::string counted(size_t count, const char* what);  // "1 lane", "2 lanes"

// All of the threads learn what any of them has learned.
void share_knowledge(Thread* threads, int count);

}  // namespace sim
