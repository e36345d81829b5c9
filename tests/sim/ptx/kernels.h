// From the kernels of this program to what nvcc made of the same source.
#pragma once

#include <functional>

#include "sim/machine.h"

namespace sim::ptx {

// What each thread does of a launch of `kernel`, a function of this program; null where kernels run as they are.
std::function<void()> compiled(const Shape& shape, const void* kernel, const void* parameters, int64_t bytes);

}  // namespace sim::ptx

extern "C" {
// Kernels run from the PTX in the files of this folder from now on; an empty name: as this program's own C++. What is
// wrong with it; null: nothing.
__attribute__((visibility("default"))) const char* sim_use_ptx(const char* folder);
// Instructions that threads have executed of a class (see module.h) since the program began: those whose guard held.
__attribute__((visibility("default"))) uint64_t sim_executed(int what);
// PTX kernels launched since the program began; of the nth, the name and the template arguments, and its threads.
__attribute__((visibility("default"))) int64_t sim_num_launched();
__attribute__((visibility("default"))) const char* sim_launched(int64_t n);
__attribute__((visibility("default"))) int64_t sim_launched_threads(int64_t n);
// Whether launches are timed from now on: see timing.h.
__attribute__((visibility("default"))) void sim_time(bool on);
// A row of the tables of costs.h, its cells parted by |; null: there is no such row.
__attribute__((visibility("default"))) const char* sim_cost(int row);
// What the critical paths of all timed launches so far consist of, by Part.
__attribute__((visibility("default"))) int64_t sim_cycles_of(int part);
}
