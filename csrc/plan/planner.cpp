#include "plan/planner.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

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

// Estimates that differ by less may as well be the other way round: each is up to 7 % off the figures that it comes
// from (tests/tools/test_bench_costs.py).
constexpr double kAsFast = 1.15;

// Why one size of one kind cannot run; empty: it can. `depth` tells how far the checks came: the refusal of the size
// that came farthest is the one worth reading.
struct Refusal {
  int depth;
  std::string reason;
};

std::string too_few_registers(int64_t needed, const DeviceInfo& device) {
  if (needed <= device.registers_per_sm) return "";
  return "needs " + std::to_string(needed) + " registers per SM, this device has " +
         std::to_string(device.registers_per_sm);
}

std::string too_little_shared_memory(int64_t needed, const std::string& per, const DeviceInfo& device) {
  if (needed <= device.shared_bytes_per_block) return "";
  return bytes_text(needed) + " of shared memory per " + per + ", this device has " +
         bytes_text(device.shared_bytes_per_block);
}

std::string too_few_sms(int64_t blocks, const DeviceInfo& device) {
  return std::to_string(blocks) + " blocks at once, this device has " + std::to_string(device.num_sms) + " SMs";
}

// Reasons of kind, dtype and architecture: the same for every size.
std::string refuse_kind(KernelKind kind, const Problem& problem, const DeviceInfo& device) {
  if (problem.dtype == DType::kFloat64) return "float64: only step computes it";
  if (problem.proj_size > 0) return "proj_size " + std::to_string(problem.proj_size) + ": only step projects h";
  const int64_t needed = kind == KernelKind::kCluster ? 90 : 80;  // clusters; mma.sync of bfloat16 and TF32
  if (device.compute_capability < needed) {
    return "needs compute capability " + capability_text(needed) + ", this device has " +
           capability_text(device.compute_capability);
  }
  return "";
}

Refusal refuse_cluster(const Launch& launch, const Problem& problem, const DeviceInfo& device) {
  const int64_t blocks = launch.blocks_per_group, hidden = problem.hidden_size;
  const std::string over = " over " + std::to_string(blocks) + " blocks";
  if (blocks > device.max_cluster_size) {
    return {0, "clusters of " + std::to_string(blocks) + " blocks, this device allows " +
                   std::to_string(device.max_cluster_size)};
  }
  if (blocks > device.num_sms) return {0, too_few_sms(blocks, device)};
  const int64_t largest = cluster_max_hidden(problem.dtype);
  const int64_t most = cluster_max_units(cluster_split(problem.dtype, hidden));
  if (hidden > largest) {
    return {2, "the registers of " + std::to_string(device.max_cluster_size) + " blocks hold W_hh up to H " +
                   std::to_string(largest) + " in " + dtype_name(problem.dtype) + ", H is " + std::to_string(hidden)};
  }
  if (launch.units_per_block > most) {
    return {2, std::to_string(launch.units_per_block) + " units per block" + over + ", its registers hold " +
                   std::to_string(most)};
  }
  // The blocks of a cluster learn from each other's h that a tile has been read: each has to have some.
  if ((blocks - 1) * launch.units_per_block >= hidden) return {1, "a block without units" + over};
  if (resident_clusters(device, blocks) == 0)
    return {2, "clusters of " + std::to_string(blocks) + " blocks, this device has room for none"};
  const std::string reason = too_little_shared_memory(launch.shared_bytes, "block" + over, device);
  return {reason.empty() ? 3 : 2, reason};
}

// A cluster takes one tile of rows.
Launch lay_out_cluster(int64_t blocks, const Problem& problem) {
  const int64_t split = cluster_split(problem.dtype, problem.hidden_size);
  Launch launch;
  launch.kind = KernelKind::kCluster;
  launch.blocks_per_group = blocks;
  launch.units_per_block = cluster_units(problem.hidden_size, blocks);
  launch.threads_per_block = kWarp * launch.units_per_block / kTileUnits * split;
  launch.rows_per_group = kTileRows;
  launch.num_groups = problem.num_directions * std::max<int64_t>(1, ceil_div(problem.batch, kTileRows));
  launch.shared_bytes = cluster_forward_shared_bytes(problem.dtype, split, launch.units_per_block);
  if (problem.training) {
    launch.shared_bytes =
        std::max(launch.shared_bytes, cluster_backward_shared_bytes(problem.dtype, 2 * split, launch.units_per_block));
  }
  return launch;
}

// Groups that run at once, as all blocks of a launch have to, each in one direction and in one of `layers`.
Launch lay_out_group(int64_t layers, bool backward, const Problem& problem, const DeviceInfo& device) {
  const int64_t hidden = problem.hidden_size, tiles = group_row_tiles(problem.batch);
  const bool tensor_cores = has_tensor_cores(problem.dtype, problem.allow_tf32);
  Launch launch;
  launch.kind = KernelKind::kGroup;
  launch.threads_per_block = kThreads;
  launch.blocks_per_group = group_blocks(hidden);
  launch.units_per_block = kGroupUnits;
  launch.num_layers = layers;
  const int64_t resident = std::max<int64_t>(1, device.num_sms / (layers * launch.blocks_per_group));
  launch.directions_at_once = std::min(problem.num_directions, resident);
  const int64_t tiles_per_group = ceil_div(tiles, resident / launch.directions_at_once);
  launch.rows_per_group = tiles_per_group * kTileRows;
  launch.num_groups = layers * problem.num_directions * ceil_div(tiles, tiles_per_group);
  launch.shared_bytes =
      group_shared_bytes({problem.dtype, tensor_cores, layers > 1, backward}, hidden, launch.rows_per_group);
  return launch;
}

std::string refuse_group(const Launch& launch, const DeviceInfo& device) {
  const int64_t blocks = launch.num_layers * launch.blocks_per_group;
  if (blocks > device.num_sms) return too_few_sms(blocks, device);
  if (launch.rows_per_group > kGroupMostTiles * kTileRows) {
    return std::to_string(launch.rows_per_group) + " rows per group, it takes " +
           std::to_string(kGroupMostTiles * kTileRows);
  }
  const std::string of_blocks = "block over " + std::to_string(launch.blocks_per_group) + " blocks";
  return too_little_shared_memory(launch.shared_bytes, of_blocks, device);
}

// Launches of the recurrence and of the input projections in all layers; `fused`, in layers with this input size.
template <class Fuses>
int64_t count_launches(const Problem& problem, int64_t recurrence, Fuses&& fused) {
  const int64_t width = problem.proj_size > 0 ? problem.proj_size : problem.hidden_size;
  const auto layer = [&](int64_t input_size) { return recurrence + (fused(input_size) ? 0 : problem.num_directions); };
  return layer(problem.input_size) + (problem.num_layers - 1) * layer(problem.num_directions * width);
}

// One thread block for each tile of rows and direction.
Candidate block(const Problem& problem, const DeviceInfo& device) {
  Candidate block;
  Launch& launch = block.launch;
  launch.kind = KernelKind::kBlock;
  const int64_t hidden = problem.hidden_size, largest = block_max_hidden(problem.dtype);
  block.reason = refuse_kind(launch.kind, problem, device);
  if (block.reason.empty() && hidden > largest) {
    block.reason = "the registers of one block hold W_hh up to H " + std::to_string(largest) + " in " +
                   dtype_name(problem.dtype) + ", H is " + std::to_string(hidden);
  }
  if (!block.reason.empty()) return block;

  const auto fuses = [&](int64_t input_size) { return block_fuses_input(problem.dtype, hidden, input_size); };
  launch.fuses_input = fuses(problem.input_size);
  launch.threads_per_block = block_forward_threads(hidden);
  launch.blocks_per_group = 1;
  launch.num_groups = problem.num_directions * std::max<int64_t>(1, ceil_div(problem.batch, kTileRows));
  launch.units_per_block = round_up(hidden, kTileUnits);
  launch.rows_per_group = kTileRows;
  const BlockVariant variant = block_variant(problem.dtype, hidden, launch.fuses_input);
  launch.shared_bytes = block_forward_shared_bytes(variant);
  const int64_t forward_registers =
      launch.threads_per_block * block_forward_registers(problem.dtype, problem.allow_tf32, variant);
  const int64_t backward_registers =
      block_backward_threads(hidden) * block_backward_registers(problem.dtype, problem.allow_tf32, variant);
  block.reason =
      too_few_registers(problem.training ? std::max(forward_registers, backward_registers) : forward_registers, device);
  if (block.reason.empty()) {
    const int64_t backward_bytes = problem.training ? block_backward_shared_bytes(variant) : 0;
    block.reason = too_little_shared_memory(std::max(launch.shared_bytes, backward_bytes), "block", device);
  }
  if (!block.reason.empty()) return block;
  block.legal = true;
  block.register_bytes = block_weight_bytes(variant, hidden);
  block.launches = count_launches(problem, 1, fuses);
  block.step = cuda_step_time(problem, device, launch);
  return block;
}

// The fastest of the cluster sizes.
Candidate cluster(const Problem& problem, const DeviceInfo& device) {
  Candidate best;
  best.launch.kind = KernelKind::kCluster;
  best.reason = refuse_kind(best.launch.kind, problem, device);
  if (best.reason.empty()) best.reason = too_few_registers(kClusterThreads * kClusterRegisters, device);
  if (!best.reason.empty()) return best;
  int depth = -1;
  // Of a single block only where there are no units for a second: more is what kind `block` is for.
  for (int64_t blocks = problem.hidden_size > kClusterUnits ? 2 : 1; blocks <= kMostClusterBlocks; ++blocks) {
    const Launch launch = lay_out_cluster(blocks, problem);
    const Refusal refusal = refuse_cluster(launch, problem, device);
    if (refusal.reason.empty()) {
      const StepTime step = cuda_step_time(problem, device, launch);
      if (best.legal && step.us >= best.step.us) continue;
      best = Candidate();
      best.launch = launch;
      best.legal = true;
      best.step = step;
    } else if (!best.legal && (refusal.depth > depth || refusal.depth == 2)) {
      best.reason = refusal.reason;
      depth = refusal.depth;
    }
  }
  if (!best.legal) return best;
  best.register_bytes = cluster_weight_bytes(problem.dtype, problem.hidden_size, best.launch.units_per_block);
  best.launches = count_launches(problem, 1, [](int64_t) { return false; });
  return best;
}

// One way of a `group` through a layer, or through several side by side where that is faster than one after the other.
struct GroupPass {
  Launch launch;
  StepTime step;
  std::string layers;  // and why not elsewhere
};

GroupPass group_pass(bool backward, const Problem& problem, const DeviceInfo& device, bool side_by_side) {
  GroupPass pass = {lay_out_group(1, backward, problem, device), {}, ""};
  pass.step = cuda_step_time(problem, device, pass.launch, backward);
  if (problem.num_layers == 1) return pass;
  const std::string alone = "one after the other; ";
  if (problem.num_directions > 1) {
    pass.layers =
        alone + "each direction needs both of the layer " + (backward ? "above" : "below") + ", all steps of them";
    return pass;
  }
  for (int64_t layers = 2; layers <= std::min(problem.num_layers, kGroupMostLayers); ++layers) {
    const Launch launch = lay_out_group(layers, backward, problem, device);
    const std::string reason = refuse_group(launch, device);
    const StepTime step = reason.empty() ? cuda_step_time(problem, device, launch, backward) : StepTime();
    if (reason.empty() && (side_by_side || step.us < pass.step.us)) {
      pass = {launch, step,
              std::to_string(layers) + " side by side, each a step behind the one " + (backward ? "above" : "below")};
    } else if (pass.layers.empty()) {
      const std::string slower = us_text(step.us) + " per step of a layer against " + us_text(pass.step.us);
      pass.layers = alone + std::to_string(layers) + " side by side: " + (reason.empty() ? slower : reason);
    }
  }
  return pass;
}

Candidate group(const Problem& problem, const DeviceInfo& device, bool side_by_side) {
  Candidate group;
  group.launch.kind = KernelKind::kGroup;
  group.reason = refuse_kind(group.launch.kind, problem, device);
  if (group.reason.empty()) group.reason = too_few_registers(kThreads * kGroupRegisters, device);
  for (const bool backward : {false, true})
    if (group.reason.empty() && (problem.training || !backward))
      group.reason = refuse_group(lay_out_group(1, backward, problem, device), device);
  if (group.reason.empty() && problem.seq_len * problem.batch > std::numeric_limits<uint32_t>::max())
    group.reason = "rows of all steps are counted in 32 bits";
  if (!group.reason.empty()) return group;
  group.legal = true;
  const GroupPass forward = group_pass(/*backward=*/false, problem, device, side_by_side);
  const Launch& launch = group.launch = forward.launch;
  group.step = forward.step;
  group.layers = forward.layers;
  if (problem.training) {
    const GroupPass backward = group_pass(/*backward=*/true, problem, device, side_by_side);
    group.backward = backward.launch;
    group.backward_layers = backward.layers;
  }
  const bool tensor_cores = has_tensor_cores(problem.dtype, problem.allow_tf32);
  group.register_bytes = group_register_bytes({problem.dtype, tensor_cores, launch.num_layers > 1, /*backward=*/false},
                                              problem.hidden_size);
  // Before each, the memory that blocks meet in is filled.
  const int64_t recurrences = problem.num_directions / launch.directions_at_once;
  group.launches = ceil_div(problem.num_layers, launch.num_layers) * (problem.num_directions + 1 + recurrences);
  return group;
}

// Runs everything: the last resort, and the first choice where B * H is so large that a product per step is the right
// thing. A launch per time step for both directions, two with a projection, and one to finish.
Candidate step(const Problem& problem, const DeviceInfo& device) {
  Candidate step;
  Launch& launch = step.launch;
  launch.kind = KernelKind::kStep;
  launch.threads_per_block = kThreads;
  launch.units_per_block = kTileUnits;
  launch.rows_per_group = step_rows(problem.dtype, problem.allow_tf32);
  launch.blocks_per_group = ceil_div(problem.hidden_size, kTileUnits);
  launch.num_groups = problem.num_directions * std::max<int64_t>(1, ceil_div(problem.batch, launch.rows_per_group));
  step.legal = true;
  const int64_t launches_per_step = problem.proj_size > 0 ? 2 : 1;
  step.launches = count_launches(problem, launches_per_step * problem.seq_len + 1, [](int64_t) { return false; });
  step.step = cuda_step_time(problem, device, step.launch);
  return step;
}

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
  plan.candidates = {block(problem, device), cluster(problem, device), group(problem, device, side_by_side),
                     step(problem, device)};
  double fastest = std::numeric_limits<double>::infinity();
  for (Candidate& candidate : plan.candidates) {
    for (Launch* launch : {&candidate.launch, candidate.backward ? &*candidate.backward : nullptr}) {
      if (launch == nullptr) continue;
      launch->dtype = problem.dtype;
      launch->training = problem.training;
      launch->allow_tf32 = problem.allow_tf32;
      launch->num_directions = problem.num_directions;
    }
    candidate.built = built.count(kernel_name(candidate.launch.kind, problem.dtype, problem.training)) > 0;
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
