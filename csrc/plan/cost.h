// Estimated time of one step, in us, until a GPU has measured the constants. They are chosen so that the persistent
// kinds on an H100 in 16 bit come within a fifth of what a count of bytes, products and exchanges gives for H = 64 to
// 2048.
#pragma once

#include "params.h"
#include "plan/device_info.h"
#include "tiles.h"

namespace lstm_fused {

// One time step of one layer, all its directions, forward, recurrence only.
double cuda_us_per_step(const Problem& problem, const DeviceInfo& device, const Launch& launch);
// Of kind `group`, either way.
double group_us_per_step(const Problem& problem, const DeviceInfo& device, const Launch& launch, bool backward);
double cpu_us_per_step(const Problem& problem, const DeviceInfo& device, int64_t num_tasks, bool barrier);

}  // namespace lstm_fused
