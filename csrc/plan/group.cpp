// How `group` shares a GPU between rows, directions and layers.
#include <algorithm>
#include <limits>

#include "plan/candidates.h"
#include "plan/text.h"

namespace lstm_fused {
namespace {

// Groups that run at once, as all blocks of a launch have to, each in one direction and in one of `layers`.
Launch lay_out_group(int64_t layers, bool backward, const Problem& problem, const DeviceInfo& device,
                     int64_t blocks_per_sm) {
  const int64_t hidden = problem.hidden_size, tiles = group_row_tiles(problem.batch);
  const int64_t warps = kGroupWarps / blocks_per_sm;
  const bool tensor_cores = has_tensor_cores(problem.dtype, problem.allow_tf32);
  Launch launch;
  launch.kind = KernelKind::kGroup;
  launch.threads_per_block = warps * kWarp;
  launch.blocks_per_group = group_blocks(hidden);
  launch.units_per_block = kGroupUnits;
  launch.num_layers = layers;
  const int64_t room = blocks_per_sm * device.num_sms;
  const int64_t resident = std::max<int64_t>(1, room / (layers * launch.blocks_per_group));
  launch.directions_at_once = std::min(problem.num_directions, resident);
  const int64_t tiles_per_group = ceil_div(tiles, resident / launch.directions_at_once);
  launch.rows_per_group = tiles_per_group * kTileRows;
  launch.num_groups = layers * problem.num_directions * ceil_div(tiles, tiles_per_group);
  launch.shared_bytes =
      group_shared_bytes({problem.dtype, tensor_cores, layers > 1, backward}, hidden, launch.rows_per_group, warps);
  return launch;
}

// Whether two blocks on an SM, laid out as `two`, take its rows in fewer cycles than one. By the model a turn of each
// side by side takes up to 6 / 7 of two turns of one block, where each has several tiles and registers hold W_hh.
bool pays(const Launch& two, const Launch& one, bool backward, const Problem& problem, const DeviceInfo& device) {
  const GroupVariant variant{problem.dtype, has_tensor_cores(problem.dtype, problem.allow_tf32), false, backward};
  const int64_t warps = two.threads_per_block / kWarp;
  return one.rows_per_group >= 4 * kTileRows && 6 * 2 * two.rows_per_group <= 7 * one.rows_per_group &&
         group_part_chunks(problem.dtype, problem.hidden_size, backward, warps) <= group_chunks_held(variant) &&
         2 * (two.shared_bytes + kReservedSharedBytes) <= device.shared_bytes_per_sm;
}

Launch lay_out_group(int64_t layers, bool backward, const Problem& problem, const DeviceInfo& device) {
  const Launch one = lay_out_group(layers, backward, problem, device, 1);
  const Launch two = lay_out_group(layers, backward, problem, device, 2);
  return layers == 1 && pays(two, one, backward, problem, device) ? two : one;
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

}  // namespace

Candidate group_candidate(const Problem& problem, const DeviceInfo& device, bool side_by_side) {
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
                                              problem.hidden_size, launch.threads_per_block / kWarp);
  // Before each, the memory that blocks meet in is filled.
  const int64_t recurrences = problem.num_directions / launch.directions_at_once;
  group.launches = ceil_div(problem.num_layers, launch.num_layers) * (problem.num_directions + 1 + recurrences);
  return group;
}

}  // namespace lstm_fused
