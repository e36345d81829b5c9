#include "plan/candidates.h"

#include <algorithm>

#include "plan/text.h"

namespace lstm_fused {

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

std::string refuse_kind(KernelKind kind, const Problem& problem, const DeviceInfo& device) {
  if (problem.dtype == DType::kFloat64) return "float64: only step computes it";
  if (problem.has_norms) return "layer_norm: only step has all of a row at hand";
  if (problem.proj_size > 0) return "proj_size " + std::to_string(problem.proj_size) + ": only step projects h";
  const int64_t needed = kind == KernelKind::kCluster ? 90 : 80;  // clusters; mma.sync of bfloat16 and TF32
  if (device.compute_capability < needed) {
    return "needs compute capability " + capability_text(needed) + ", this device has " +
           capability_text(device.compute_capability);
  }
  return "";
}

namespace {

// Why one size of one kind cannot run; empty: it can. `depth` tells how far the checks came: the refusal of the size
// that came farthest is the one worth reading.
struct Refusal {
  int depth;
  std::string reason;
};

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

// Launches of the recurrence and of the input projections in all layers; `fused`, in layers with this input size.
template <class Fuses>
int64_t count_launches(const Problem& problem, int64_t recurrence, Fuses&& fused) {
  const int64_t width = problem.proj_size > 0 ? problem.proj_size : problem.hidden_size;
  const auto layer = [&](int64_t input_size) { return recurrence + (fused(input_size) ? 0 : problem.num_directions); };
  return layer(problem.input_size) + (problem.num_layers - 1) * layer(problem.num_directions * width);
}

}  // namespace

Candidate block_candidate(const Problem& problem, const DeviceInfo& device) {
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

  const auto fuses = [&](int64_t input_size) {
    return !problem.is_variant && block_fuses_input(problem.dtype, hidden, input_size);
  };
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

Candidate cluster_candidate(const Problem& problem, const DeviceInfo& device) {
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

Candidate step_candidate(const Problem& problem, const DeviceInfo& device) {
  Candidate step;
  Launch& launch = step.launch;
  launch.kind = KernelKind::kStep;
  launch.threads_per_block = kThreads;
  launch.units_per_block = kTileUnits;
  launch.rows_per_group = step_rows(problem.dtype, problem.allow_tf32);
  launch.blocks_per_group = ceil_div(problem.hidden_size, kTileUnits);
  launch.num_groups = problem.num_directions * std::max<int64_t>(1, ceil_div(problem.batch, launch.rows_per_group));
  step.legal = true;
  const int64_t launches_per_step = 1 + (problem.proj_size > 0) + problem.has_norms;
  const int64_t once = 1 + problem.is_variant + problem.has_norms;  // first and last states, the norm of x W_ih^T
  step.launches = count_launches(problem, launches_per_step * problem.seq_len + once, [](int64_t) { return false; });
  step.step = cuda_step_time(problem, device, step.launch);
  return step;
}

}  // namespace lstm_fused
