// What a test sees of the simulator. launch_kernel runs a grid on the calling thread, every CUDA thread as a fiber, in
// an order drawn from a seed; what a kernel does wrong comes out of launch_kernel as a Fault.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace sim {

class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The seed of all later launches: the same seed and the same launches give the same schedules.
void set_seed(uint64_t seed);

// How many blocks are on the machine at once, in whole clusters; 0, the default, is as many as have 4096 threads
// together, and at least one cluster. Blocks beyond that start when others have ended, in random order; a larger
// cluster is refused, and a larger grid of blocks that have to run together.
void set_max_resident_blocks(int blocks);
// SMs, as far as blocks that have to run together need to have room on them, as if each thread had as many registers as
// it may, and as timed blocks share them, in turn. 0, the default: as many as an H100 has, with room for all blocks.
void set_num_sms(int number);
int num_sms();

// Plants a fault: the barrier, the wait or the fence that stands at this line of a file of this name does nothing. An
// empty name: none.
void skip_barrier(const char* file_name, int line);
// Plants another: what a block with the index x = 1 sends from this line, by store_relaxed_if or store_remote_async,
// never arrives.
void lose_messages(const char* file_name, int line);
// Whom the schedule starves: it moves only when nobody else can. Random schedules are fair to everybody, so they show
// nothing that needs somebody to be overtaken again and again.
struct Starved {
  enum class What {
    kNobody,
    kWarp,   // that of this number: block after block, warp after warp
    kBlock,  // that of this number, of those on the machine
    kLast,   // whoever is the last that others wait for, at barriers of blocks and clusters and at mbarriers
  } what;
  int number;
};
void starve(Starved who);
bool found_who_starves();  // in a launch since then; with kWarp or kBlock, whether there are as many

// Whether waits poll and have a watchdog (csrc/kernels/watchdog.cuh), as on a GPU. Otherwise who waits sleeps, and the
// simulator itself says when nobody can go on.
void watch_waits(bool watch);

// Since the last reset_counts().
int64_t launches();
int64_t max_shared_bytes();
void reset_counts();

}  // namespace sim

// The same for Python's ctypes.
extern "C" {
__attribute__((visibility("default"))) void sim_set_seed(uint64_t seed);
__attribute__((visibility("default"))) void sim_set_max_resident_blocks(int blocks);
__attribute__((visibility("default"))) void sim_set_num_sms(int number);
__attribute__((visibility("default"))) void sim_skip_barrier(const char* file_name, int line);
__attribute__((visibility("default"))) void sim_lose_messages(const char* file_name, int line);
__attribute__((visibility("default"))) void sim_watch_waits(bool watch);
__attribute__((visibility("default"))) void sim_starve(int what, int number);
__attribute__((visibility("default"))) bool sim_found_who_starves();
__attribute__((visibility("default"))) int64_t sim_launches();
__attribute__((visibility("default"))) int64_t sim_max_shared_bytes();
__attribute__((visibility("default"))) void sim_reset_counts();
}
