#include "plan/planner.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>

#include "plan/cost.h"
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

// Why one size of one kind cannot run; empty: it can. `depth` tells how far the checks came: the refusal of the size
// that came farthest is the one worth reading.
struct Refusal {
  int depth;
  std::string reason;
};

// Reasons of kind, dtype and architecture: the same for every size.
std::string refuse_kind(KernelKind kind, const Problem& problem, const DeviceInfo& device) {
  if (problem.dtype == DType::kFloat64) return "float64: only step computes it";
  if (problem.proj_size > 0) return "proj_size " + std::to_string(problem.proj_size) + ": only step projects h";
  const int64_t needed = kind == KernelKind::kCluster ? 90 : 80;
  if (device.compute_capability < needed) {
    return "needs compute capability " + capability_text(needed) + ", this device has " +
           capability_text(device.compute_capability);
  }
  if (kThreads * kRegistersPerThread > device.registers_per_sm) {
    return "needs " + std::to_string(kThreads * kRegistersPerThread) + " registers per SM, this device has " +
           std::to_string(device.registers_per_sm);
  }
  return "";
}

Refusal refuse_size(const Launch& launch, const Problem& problem, const DeviceInfo& device) {
  const int64_t blocks = launch.blocks_per_group, tiles = ceil_div(problem.hidden_size, kTileUnits);
  const std::string over = " over " + std::to_string(blocks) + (blocks == 1 ? " block" : " blocks");
  if (launch.kind == KernelKind::kCluster && blocks > device.max_cluster_size) {
    return {0, "clusters of " + std::to_string(blocks) + " blocks, this device allows " +
                   std::to_string(device.max_cluster_size)};
  }
  if (blocks > device.num_sms) {
    return {0, std::to_string(blocks) + " blocks at once, this device has " + std::to_string(device.num_sms) + " SMs"};
  }
  if (blocks > tiles) {
    return {1, "H " + std::to_string(problem.hidden_size) + " is " + std::to_string(tiles) + " tiles of " +
                   std::to_string(kTileUnits) + " units, fewer than " + std::to_string(blocks) + " blocks"};
  }
  const int64_t weights = weight_bytes(problem.dtype, launch.units_per_block, problem.hidden_size);
  if (launch.kind != KernelKind::kGroup && weights > kRegisterWeightBytes) {
    return {2, "W_hh is " + bytes_text(weights) + " per block" + over + ", registers hold " +
                   bytes_text(kRegisterWeightBytes)};
  }
  if (launch.shared_bytes > device.shared_bytes_per_block) {
    return {2, bytes_text(launch.shared_bytes) + " of shared memory per block" + over + ", this device has " +
                   bytes_text(device.shared_bytes_per_block)};
  }
  return {3, ""};
}

Launch lay_out(KernelKind kind, int64_t blocks, const Problem& problem, const DeviceInfo& device) {
  Launch launch;
  launch.kind = kind;
  launch.threads_per_block = kThreads;
  launch.blocks_per_group = blocks;
  launch.units_per_block = round_up(ceil_div(problem.hidden_size, blocks), kTileUnits);
  // As few rows per group as the resident groups allow: rows are independent, so groups cost nothing but SMs.
  const int64_t resident = std::max<int64_t>(1, device.num_sms / blocks);
  const int64_t wanted = round_up(ceil_div(problem.batch * problem.num_directions, resident), kTileRows);
  launch.rows_per_group = std::clamp(wanted, kTileRows, max_rows(launch.units_per_block));
  launch.num_groups = problem.num_directions * std::max<int64_t>(1, ceil_div(problem.batch, launch.rows_per_group));
  launch.shared_bytes =
      shared_bytes(kind, problem.dtype, launch.units_per_block, launch.rows_per_group, problem.hidden_size);
  return launch;
}

Candidate persistent(KernelKind kind, std::initializer_list<int64_t> sizes, const Problem& problem,
                     const DeviceInfo& device) {
  Candidate best;
  best.launch.kind = kind;
  best.reason = refuse_kind(kind, problem, device);
  if (!best.reason.empty()) return best;
  int depth = -1;
  for (const int64_t blocks : sizes) {
    const Launch launch = lay_out(kind, blocks, problem, device);
    const Refusal refusal = refuse_size(launch, problem, device);
    if (refusal.reason.empty()) {
      const double us = cuda_us_per_step(problem, device, launch);
      if (best.legal && us >= best.us_per_step) continue;
      best = {launch, true, false, "", 0, 0, us};
    } else if (!best.legal && (refusal.depth > depth || refusal.depth == 2)) {
      best.reason = refusal.reason;
      depth = refusal.depth;
    }
  }
  if (!best.legal) return best;
  best.register_bytes = register_weight_bytes(problem.dtype, best.launch.units_per_block, problem.hidden_size);
  best.launches = problem.num_layers * (1 + problem.num_directions);  // one recurrence, an input GEMM per direction
  return best;
}

// Runs everything: the last resort, and the first choice where B * H is so large that a GEMM per step is the right
// thing.
Candidate step(const Problem& problem, const DeviceInfo& device) {
  Candidate step;
  step.launch.kind = KernelKind::kStep;
  step.legal = true;
  const int64_t launches_per_step = problem.proj_size > 0 ? 3 : 2;
  step.launches = problem.num_layers * problem.num_directions * (1 + launches_per_step * problem.seq_len);
  step.us_per_step = cuda_us_per_step(problem, device, step.launch);
  return step;
}

Candidate cpu(const Problem& problem, const DeviceInfo& device, const CpuPlan& plan) {
  Candidate cpu;
  cpu.launch.kind = KernelKind::kCpu;
  cpu.legal = cpu.built = true;
  cpu.us_per_step = cpu_us_per_step(problem, device, plan.num_tasks, plan.split == CpuPlan::kGates);
  return cpu;
}

}  // namespace

Plan make_plan(const Problem& problem, const DeviceInfo& device, const std::set<std::string>& built) {
  check(problem);
  Plan plan{problem, device, {}, -1, {CpuPlan::kRows, 1}};
  if (!device.is_cuda) {
    check("num_threads", device.num_threads, 1, int64_t{1} << 16);
    plan.cpu = plan_cpu(problem, device.num_threads);
    plan.candidates.push_back(cpu(problem, device, plan.cpu));
    plan.chosen = 0;
    return plan;
  }
  check("num_sms", device.num_sms, 1, int64_t{1} << 16);
  check("clock_mhz", device.clock_mhz, 1, int64_t{1} << 16);
  check("memory_gb_per_s", device.memory_gb_per_s, 1, int64_t{1} << 20);
  plan.candidates = {persistent(KernelKind::kBlock, {1}, problem, device),
                     persistent(KernelKind::kCluster, {2, 4, 8, 16}, problem, device),
                     persistent(KernelKind::kGroup, {32, 48, 64, 96, 128}, problem, device), step(problem, device)};
  std::stable_sort(plan.candidates.begin(), plan.candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.legal != b.legal ? a.legal : a.legal && a.us_per_step < b.us_per_step;
  });
  for (Candidate& candidate : plan.candidates) {
    candidate.launch.dtype = problem.dtype;
    candidate.launch.training = problem.training;
    candidate.launch.num_directions = problem.num_directions;
    candidate.built = built.count(kernel_name(candidate.launch.kind, problem.dtype, problem.training)) > 0;
    if (!candidate.legal) continue;
    if (!candidate.built) {
      candidate.reason = "not in this build";
    } else if (plan.chosen < 0) {
      plan.chosen = static_cast<int>(&candidate - plan.candidates.data());
    } else {
      candidate.reason = "slower: " + us_text(candidate.us_per_step) + " per step against " +
                         us_text(plan.candidates[plan.chosen].us_per_step);
    }
  }
  return plan;
}

}  // namespace lstm_fused
