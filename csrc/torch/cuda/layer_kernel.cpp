#include "torch/cuda/layer_kernel.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "kernels/device_query.h"
#include "plan/planner.h"
#include "torch/wanted_kernel.h"

namespace lstm_fused {
namespace {

// Asked once per device. Like everything here, called by kernel_for alone, under its lock.
const DeviceInfo& device_info(int device) {
  static std::map<int, DeviceInfo> known;
  auto found = known.find(device);
  if (found == known.end()) {
    DeviceInfo info;
    const int error = query_device(device, &info);
    STD_TORCH_CHECK(error == 0, "lstm_fused: cuda:", device, " cannot be asked: ", error_text(error));
    info.is_cuda = true;
    found = known.emplace(device, info).first;
  }
  return found->second;
}

LayerKernel choose(const Problem& problem, int device, const std::string& kind) {
  const KernelTable table = kernel_table();
  const auto entry_of = [&](KernelKind of_plan) {
    return find_kernel(table, built_kind(problem, of_plan), problem.dtype, problem.training);
  };
  const bool side_by_side = kind == "group_stack";
  std::set<std::string> built, wanted;
  for (const KernelKind each : {KernelKind::kStep, KernelKind::kBlock, KernelKind::kCluster, KernelKind::kGroup}) {
    const KernelEntry* const entry = entry_of(each);
    if (entry == nullptr) continue;
    const std::string name = kernel_name(entry->kind, entry->dtype, entry->training);
    built.insert(name);
    if (kind_name(each) == (side_by_side ? "group" : kind)) wanted.insert(name);
  }
  Plan plan = make_plan(problem, device_info(device), wanted, side_by_side);
  if (plan.chosen < 0) plan = make_plan(problem, device_info(device), built);
  STD_TORCH_CHECK(plan.chosen >= 0, "lstm_fused: ",
                  missing_kernel(table, built_kind(problem, KernelKind::kStep), problem.dtype, problem.training));
  const Candidate& candidate = plan.candidates[plan.chosen];
  const KernelEntry *const chosen = entry_of(candidate.launch.kind), *const step = entry_of(KernelKind::kStep);
  return {{candidate.launch, chosen, step, &KernelEntry::forward},
          {candidate.backward.value_or(candidate.launch), chosen, step, &KernelEntry::backward}};
}

bool same(const Problem& a, const Problem& b) {
  return a.seq_len == b.seq_len && a.batch == b.batch && a.input_size == b.input_size &&
         a.hidden_size == b.hidden_size && a.proj_size == b.proj_size && a.num_layers == b.num_layers &&
         a.num_directions == b.num_directions && a.dtype == b.dtype && a.allow_tf32 == b.allow_tf32 &&
         a.training == b.training && a.has_lengths == b.has_lengths && a.has_reset == b.has_reset &&
         a.is_variant == b.is_variant && a.has_norms == b.has_norms;
}

// A plan costs some microseconds, which matter at T = 1, so the last few are kept.
LayerKernel kernel_for(const Problem& problem, int device) {
  struct Entry {
    Problem problem;
    int device;
    std::string wanted_kind;
    LayerKernel kernel;
  };
  static std::mutex mutex;
  static std::deque<Entry> recent;
  constexpr size_t kMostRecent = 16;

  const std::string kind(wanted_kernel());
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Entry& entry : recent)
    if (entry.device == device && entry.wanted_kind == kind && same(entry.problem, problem)) return entry.kernel;
  recent.push_front({problem, device, kind, choose(problem, device, kind)});
  if (recent.size() > kMostRecent) recent.pop_back();
  return recent.front().kernel;
}

}  // namespace

LayerKernel layer_kernel(const Stack& stack, int64_t layer, bool training, bool allow_tf32, int device) {
  Problem problem = stack.problem(training, false, false);
  problem.input_size = stack.layer_input_size(layer);
  problem.allow_tf32 = allow_tf32;
  return kernel_for(problem, device);
}

LayerKernel variant_kernel(const VariantLayer& layer, bool training, int device) {
  return kernel_for(layer.problem(training), device);
}

GroupMemory::GroupMemory(const Launch& launch, const LayerShape& shape, bool backward, const Tensor& like)
    : exchange_bytes_(0),
      onward_bytes_(group_onward_bytes(launch.dtype, shape.hidden_size, shape.seq_len * shape.batch, backward)),
      count_(launch.num_directions * launch.num_layers),
      num_onward_(launch.num_layers - 1) {
  if (launch.kind != KernelKind::kGroup) return;
  const int64_t rows = group_rows(launch.rows_per_group, shape.batch);
  exchange_bytes_ = group_exchange_bytes(launch.dtype, shape.hidden_size, rows, backward);
  const int64_t bytes = count_ * exchange_bytes_ + num_onward_ * onward_bytes_;
  memory_ = empty({bytes / int64_t{sizeof(kGroupMissing)}}, like, ScalarType::Int);
  torch::stable::fill_(memory_, static_cast<int32_t>(kGroupMissing));
}

char* GroupMemory::exchange(int64_t n) const {
  return memory_.defined() ? data<char>(memory_) + n * exchange_bytes_ : nullptr;
}
char* GroupMemory::onward(int64_t n) const {
  return memory_.defined() && n < num_onward_ ? exchange(count_) + n * onward_bytes_ : nullptr;
}

void run(const LayerKernel::Pass& pass, const LayerShape& shape, const void* params, size_t params_bytes, void* stream,
         const std::function<void(int64_t)>& for_step) {
  if (shape.batch == 0) return;
  const Launch& launch = pass.launch;
  for (int64_t first = 0; first < launch.num_directions; first += launch.directions_at_once) {
    Launch part = launch;
    part.num_directions = std::min(launch.directions_at_once, launch.num_directions - first);
    const void* const part_params = static_cast<const char*>(params) + first * params_bytes;
    const KernelEntry* entry = pass.chosen;
    int error = (entry->*pass.launcher)(part, shape, part_params, stream);
    if (error == kTooManyBlocks) {
      entry = pass.step;
      part.kind = KernelKind::kStep;
      part.num_layers = 1;
      error = 0;
      for (int64_t layer = 0; layer < launch.num_layers && error == 0; ++layer) {
        for (int64_t d = 0; d < part.num_directions; ++d) for_step(first + layer + d);
        error =
            (entry->*pass.launcher)(part, shape, static_cast<const char*>(part_params) + layer * params_bytes, stream);
      }
    }
    STD_TORCH_CHECK(error == 0, "lstm_fused: ", kernel_name(entry->kind, entry->dtype, entry->training),
                    " was not launched: ", error_text(error));
  }
}

}  // namespace lstm_fused
