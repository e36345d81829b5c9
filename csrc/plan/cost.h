// Estimated time of one step, in us, until a GPU has measured it: for CUDA the critical path of the compiled kernels,
// as modelled, or published rates where they say more.
#pragma once

#include <vector>

#include "params.h"
#include "plan/device_info.h"
#include "tiles.h"

namespace lstm_fused {

struct StepTime {
  double us = 0;
  double launch_us = 0;   // of it, the launches of `step`
  bool is_model = false;  // the rest is the modelled critical path; otherwise published rates
};

// What a step's critical path consists of: so many times what bench.costs knows by this name.
struct Part {
  const char* name;
  double cycles, count;
};

// One time step of one layer, all its directions, recurrence only, forward, or with `group` either way.
StepTime cuda_step_time(const Problem& problem, const DeviceInfo& device, const Launch& launch, bool backward = false);
std::vector<Part> cuda_step_parts(const Problem& problem, const DeviceInfo& device, const Launch& launch,
                                  bool backward = false);
double cpu_us_per_step(const Problem& problem, const DeviceInfo& device, int64_t num_tasks, bool barrier);

}  // namespace lstm_fused
