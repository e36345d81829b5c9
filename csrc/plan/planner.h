// Problem and device in, plan out, as data: every kernel kind is a candidate that is either refused with a reason or
// given a size and an estimate; of those in this build the fastest one is chosen, or a simpler one that is as fast.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "params.h"
#include "plan/cost.h"
#include "plan/device_info.h"
#include "tiles.h"

namespace lstm_fused {

// How the CPU's threads share one layer, directions side by side.
struct CpuPlan {
  enum Split {
    kRows,   // a task takes rows of the batch, in one direction, through all T: no barrier
    kGates,  // a task takes hidden units, in one direction, of every step: one barrier per step
  };
  // Of the recurrence.
  enum Kernel {
    kPacked,   // W_hh is packed once per call
    kDirect,   // it is read where it lies at every step
    kOneStep,  // T = 1: all weights are read where they lie, once, many rows at a time
  };
  Split split;
  int64_t num_tasks;  // worth running at once: the caller uses no more threads than this
  Kernel kernel;
  bool direct_w_ih;  // read where it lies, rather than packed for x W_ih^T
};

struct Candidate {
  Launch launch;                   // forward
  std::optional<Launch> backward;  // where it has one of its own: `group`, in training
  bool legal = false;
  bool built = false;
  std::string reason;          // why it is not chosen; empty for the chosen one
  int64_t register_bytes = 0;  // of W_hh, and of W_ih where the input is fused, per block
  int64_t launches = 0;        // forward, the whole stack, input projections included
  StepTime step;               // estimated: of one layer, forward, all its directions, recurrence only
  // How layers of a stack follow each other, and why; empty for a single one, and where nothing runs backward.
  std::string layers, backward_layers;
};

struct Plan {
  Problem problem;
  DeviceInfo device;
  std::vector<Candidate> candidates;  // legal ones first, fastest first
  int chosen = -1;                    // index into candidates; -1: no kernel in this build can run the problem
  CpuPlan cpu = {CpuPlan::kRows, 1, CpuPlan::kDirect, true};  // for a CPU
};

// Throws std::invalid_argument naming the field of the problem that is out of range.
// `built` holds names as made by kernel_name in tiles.h. `side_by_side`: `group` takes as many layers at once as it has
// room for, whether or not that is faster.
Plan make_plan(const Problem& problem, const DeviceInfo& device, const std::set<std::string>& built,
               bool side_by_side = false);

// The CPU's part alone, cheap enough for every call.
CpuPlan plan_cpu(const Problem& problem, const CpuFacts& cpu);

// 10 to 20 lines: problem, device, kernel, tiles, bytes, launches, estimate, and every other candidate with its reason.
std::string to_string(const Plan& plan);

}  // namespace lstm_fused
