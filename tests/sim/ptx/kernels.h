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
// The name and the template arguments of the kernel that was launched last, and its threads.
__attribute__((visibility("default"))) const char* sim_last_kernel();
__attribute__((visibility("default"))) int64_t sim_last_threads();
// Whether launches are timed from now on: see timing.h.
__attribute__((visibility("default"))) void sim_time(bool on);
// A row of the tables of costs.h, its cells parted by |; null: there is no such row.
__attribute__((visibility("default"))) const char* sim_cost(int row);
// Of all timed launches so far; and what their critical paths consist of, by Part.
__attribute__((visibility("default"))) int64_t sim_cycles();
__attribute__((visibility("default"))) int64_t sim_cycles_of(int part);
}
