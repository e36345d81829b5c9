#include "plan/planner.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "plan/candidates.h"
#include "plan/text.h"

namespace lstm_fused {
namespace {

void check(const char* field, int64_t value, int64_t smallest, int64_t largest) {
  if (value >= smallest && value <= largest) return;
  throw std::invalid_argument(std::string(field) + ": expected " + std::to_string(smallest) + " to " +
                              std::to_string(largest) + ", got " + std::to_string(value));
}

// The limits keep every product of sizes below 2^63.
void check(const Problem& problem) {
  constexpr int64_t kMaxCount = (int64_t{1} << 31) - 1, kMaxWidth = int64_t{1} << 24;
  check("seq_len", problem.seq_len, 1, kMaxCount);
  check("batch", problem.batch, 0, kMaxCount);
  check("input_size", problem.input_size, 0, kMaxCount);
  check("hidden_size", problem.hidden_size, 1, kMaxWidth);
  check("proj_size", problem.proj_size, 0, problem.hidden_size - 1);
  check("num_layers", problem.num_layers, 1, kMaxWidth);
  check("num_directions", problem.num_directions, 1, 2);
}

// Estimates that differ by less may as well be the other way round: each is up to 8 % off the figures that it comes
// from (tests/tools/test_bench_costs.py).
constexpr double kAsFast = 1.15;

Candidate cpu(const Problem& problem, const DeviceInfo& device, const CpuPlan& plan) {
  Candidate cpu;
  cpu.launch.kind = KernelKind::kCpu;
  cpu.legal = cpu.built = true;
  cpu.step.us = cpu_us_per_step(problem, device, plan.num_tasks, plan.split == CpuPlan::kGates);
  return cpu;
}

}  // namespace

Plan make_plan(const Problem& problem, const DeviceInfo& given, const std::set<std::string>& built, bool side_by_side) {
  check(problem);
  Plan plan{problem, given, {}, -1};
  DeviceInfo& device = plan.device;
  if (!device.is_cuda) {
    check("num_threads", device.cpu.num_threads, 1, int64_t{1} << 16);
    plan.cpu = plan_cpu(problem, device.cpu);
    plan.candidates.push_back(cpu(problem, device, plan.cpu));
    plan.chosen = 0;
    return plan;
  }
  // Some drivers tell no clock rates. The estimates are then those of a GPU of middle speed.
  if (device.clock_mhz == 0) device.clock_mhz = 1500;
  if (device.memory_gb_per_s == 0) device.memory_gb_per_s = 1000;
  check("num_sms", device.num_sms, 1, int64_t{1} << 16);
  check("clock_mhz", device.clock_mhz, 1, int64_t{1} << 16);
  check("memory_gb_per_s", device.memory_gb_per_s, 1, int64_t{1} << 20);
  // The simplest first: fewer SMs and launches.
  plan.candidates = {block_candidate(problem, device), cluster_candidate(problem, device),
                     group_candidate(problem, device, side_by_side), step_candidate(problem, device)};
  double fastest = std::numeric_limits<double>::infinity();
  for (Candidate& candidate : plan.candidates) {
    for (Launch* launch : {&candidate.launch, candidate.backward ? &*candidate.backward : nullptr}) {
      if (launch == nullptr) continue;
      launch->dtype = problem.dtype;
      launch->training = problem.training;
      launch->allow_tf32 = problem.allow_tf32;
      launch->num_directions = problem.num_directions;
    }
    const KernelKind kind = built_kind(problem, candidate.launch.kind);
    candidate.built = built.count(kernel_name(kind, problem.dtype, problem.training)) > 0;
    if (candidate.legal && candidate.built) fastest = std::min(fastest, candidate.step.us);
  }
  const auto is_as_fast = [&](const Candidate& candidate) {
    return candidate.legal && candidate.built && candidate.step.us <= kAsFast * fastest;
  };
  const auto simplest = std::find_if(plan.candidates.begin(), plan.candidates.end(), is_as_fast);
  const bool found = simplest != plan.candidates.end();
  const KernelKind kind = found ? simplest->launch.kind : KernelKind::kStep;
  const double us = found ? simplest->step.us : 0;
  std::stable_sort(plan.candidates.begin(), plan.candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.legal != b.legal ? a.legal : a.legal && a.step.us < b.step.us;
  });
  for (Candidate& candidate : plan.candidates) {
    if (found && candidate.launch.kind == kind) {
      plan.chosen = static_cast<int>(&candidate - plan.candidates.data());
    } else if (candidate.legal) {
      candidate.reason = !candidate.built ? "not in this build"
                                          : (candidate.step.us > us ? "slower: " : "faster, but not by much: ") +
                                                us_text(candidate.step.us) + " per step against " + us_text(us);
    }
  }
  return plan;
}

}  // namespace lstm_fused
