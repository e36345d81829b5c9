// The kinds of CUDA kernels that a problem may run on, each refused with a reason or given a size and an estimate.
#pragma once

#include <string>

#include "plan/planner.h"

namespace lstm_fused {

// One thread block for each tile of rows and direction.
Candidate block_candidate(const Problem& problem, const DeviceInfo& device);
// The fastest of the cluster sizes.
Candidate cluster_candidate(const Problem& problem, const DeviceInfo& device);
// side_by_side: as make_plan has it.
Candidate group_candidate(const Problem& problem, const DeviceInfo& device, bool side_by_side);
// Runs everything: the last resort, and the first choice where B * H is so large that a product per step is the right
// thing. A launch per time step for both directions, two with a projection, and one to finish.
Candidate step_candidate(const Problem& problem, const DeviceInfo& device);

// ---- why a kind cannot run; empty: it can

// Reasons of kind, dtype and architecture: the same for every size.
std::string refuse_kind(KernelKind kind, const Problem& problem, const DeviceInfo& device);
std::string too_few_registers(int64_t needed, const DeviceInfo& device);
std::string too_little_shared_memory(int64_t needed, const std::string& per, const DeviceInfo& device);
std::string too_few_sms(int64_t blocks, const DeviceInfo& device);

}  // namespace lstm_fused
