#include "plan/text.h"

#include <cstdio>

#include "plan/planner.h"

namespace lstm_fused {
namespace {

std::string number(const char* format, double value, const char* unit) {
  char text[64];
  std::snprintf(text, sizeof text, format, value, unit);
  return text;
}

std::string count(int64_t n, const std::string& noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

std::string line(const char* label, const std::string& text) {
  const std::string name(label);
  return name + std::string(11 - name.size(), ' ') + text + "\n";
}

std::string problem_text(const Problem& problem, bool is_cuda) {
  std::string text = "T " + std::to_string(problem.seq_len) + ", B " + std::to_string(problem.batch) + ", I " +
                     std::to_string(problem.input_size) + ", H " + std::to_string(problem.hidden_size);
  if (problem.proj_size > 0) text += ", P " + std::to_string(problem.proj_size);
  text += ", " + count(problem.num_layers, "layer") + ", " + count(problem.num_directions, "direction") + ", " +
          dtype_name(problem.dtype);
  if (is_cuda && problem.dtype == DType::kFloat32 && problem.allow_tf32) text += " (TF32 allowed)";
  if (problem.has_lengths) text += ", lengths";
  if (problem.has_reset) text += ", reset";
  return text + (problem.training ? ", training" : ", inference");
}

std::string device_text(const DeviceInfo& device) {
  if (!device.is_cuda) {
    const CpuFacts& cpu = device.cpu;
    return device.name + ": " + count(cpu.num_threads, "thread") + ", vectors of " + std::to_string(cpu.vector_bytes) +
           " bytes" + (cpu.multiplies_pairs ? " and pairs of bfloat16, " : ", ") + bytes_text(cpu.l1_bytes) +
           " L1 and " + bytes_text(cpu.l2_bytes) + " L2 per core";
  }
  return device.name + ": compute capability " + capability_text(device.compute_capability) + ", " +
         count(device.num_sms, "SM") + ", " + bytes_text(device.shared_bytes_per_block) + " shared memory per block, " +
         bytes_text(device.l2_bytes) + " L2, " +
         (device.max_cluster_size > 1 ? "clusters of up to " + std::to_string(device.max_cluster_size) + " blocks"
                                      : std::string("no clusters"));
}

std::string estimate_text(const Candidate& candidate, bool is_cuda) {
  const StepTime& step = candidate.step;
  std::string basis = !is_cuda        ? "estimated"
                      : step.is_model ? "modelled from the compiled kernels"
                                      : "reckoned from published rates";
  if (step.launch_us > 0) basis = number("launches %.2f, rest ", step.launch_us, "") + basis;
  return us_text(step.us) + " per step of a layer's forward recurrence (" + basis + ", not measured)";
}

std::string tiles_text(const Launch& launch) {
  if (launch.kind == KernelKind::kStep) {
    return "at every time step " + count(num_blocks(launch), "block") + " of " +
           std::to_string(launch.threads_per_block) + " threads, each " + std::to_string(launch.units_per_block) +
           " units by " + std::to_string(launch.rows_per_group) + " rows";
  }
  return std::to_string(launch.units_per_block) + " units per block, " + count(launch.blocks_per_group, "block") +
         " of " + std::to_string(launch.threads_per_block) + " threads per group, " +
         count(launch.num_groups, "group") + " of " + std::to_string(launch.rows_per_group) + " rows";
}

std::string cpu_text(const Plan& plan) {
  const int64_t width = plan.problem.proj_size > 0 ? plan.problem.proj_size : plan.problem.hidden_size;
  const int64_t element = plan.problem.dtype == DType::kFloat64 ? 8 : 4;
  const bool gates = plan.cpu.split == CpuPlan::kGates;
  std::string text = line("kernel", "cpu, chosen");
  text += line("split", std::string(gates ? "gates" : "rows") + " over " + count(plan.cpu.num_tasks, "thread") +
                            (gates ? ": each takes hidden units of every time step, one barrier per step"
                                   : ": each takes rows, in one direction, through all time steps, no barrier"));
  const bool one_step = plan.cpu.kernel == CpuPlan::kOneStep;
  text += line("W_hh", one_step ? "read where it lies, once: a single step, and nothing is packed"
                       : plan.cpu.kernel == CpuPlan::kDirect
                           ? "read where it lies at every step: few rows, and nothing is packed"
                           : "packed once per call: enough rows, T x B, to repay it");
  text += line("x W_ih^T", one_step               ? "in the same kernel, W_ih read where it lies"
                           : plan.cpu.direct_w_ih ? "by our own product, W_ih read where it lies: few rows, T x B"
                                                  : "by a product beforehand, some hundred rows, T x B, at a time");
  text += line("because", "B x directions is " + std::to_string(plan.problem.batch * plan.problem.num_directions) +
                              " for " + count(plan.device.cpu.num_threads, "thread") + ", W_hh is " +
                              bytes_text(4 * plan.problem.hidden_size * width * element) + " in " +
                              (element == 8 ? "float64" : "float32"));
  return text + line("estimate", estimate_text(plan.candidates[0], plan.device.is_cuda));
}

std::string cuda_text(const Plan& plan) {
  const Problem& problem = plan.problem;
  const bool found = plan.chosen >= 0;
  const Candidate& shown = plan.candidates[found ? plan.chosen : 0];  // one is always legal: step
  const std::string name = kind_name(shown.launch.kind);
  const std::string what = std::string(dtype_name(problem.dtype)) + (problem.training ? " training" : " inference");
  std::string text =
      line("kernel",
           found ? name + ", chosen" : "none: no CUDA kernel for " + what + " in this build; CUDA tensors are refused");
  if (!found) text += line("fastest", name + ", if it were built:");
  text += line("tiles", tiles_text(shown.launch));
  text += line("on chip", shown.register_bytes == 0
                              ? "nothing between steps: W_hh comes from L2 or memory at every step"
                              : bytes_text(shown.register_bytes) + " of W_hh" +
                                    (shown.launch.fuses_input || shown.launch.num_layers > 1 ? " and W_ih" : "") +
                                    " in registers and " + bytes_text(shown.launch.shared_bytes) +
                                    " of shared memory per block");
  if (problem.num_layers > 1)
    text +=
        line("layers", shown.layers.empty() ? "one after the other; only group takes several at once" : shown.layers);
  if (!shown.backward_layers.empty()) text += line("backward", shown.backward_layers);
  text += line("launches", std::to_string(shown.launches) + " forward, input projections included");
  text += line("estimate", estimate_text(shown, plan.device.is_cuda)) + "candidates\n";
  for (const Candidate& candidate : plan.candidates) {
    const std::string verdict = candidate.reason.empty() ? "chosen" : candidate.reason;
    const std::string kind = kind_name(candidate.launch.kind);
    text += "  " +
            line(kind.c_str(), candidate.legal ? us_text(candidate.step.us) + ", " + verdict : "refused: " + verdict);
  }
  return text;
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes >= 1 << 20) return number("%.1f %s", value / (1 << 20), "MiB");
  return number("%.1f %s", value / 1024, "KiB");
}

std::string us_text(double us) { return number(us < 100 ? "%.2f %s" : "%.0f %s", us, "us"); }

std::string capability_text(int64_t capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

std::string to_string(const Plan& plan) {
  std::string text = line("problem", problem_text(plan.problem, plan.device.is_cuda)) +
                     line("device", device_text(plan.device)) +
                     (plan.device.is_cuda ? cuda_text(plan) : cpu_text(plan));
  text.pop_back();  // the last line's end
  return text;
}

}  // namespace lstm_fused
