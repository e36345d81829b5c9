// The planner seen from Python: lstm_fused._plan. Everything is read-only; names are lstm_fused/_plan.pyi's.
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>

#include "plan/planner.h"
#include "python/stream.h"

namespace py = pybind11;

namespace lstm_fused {
namespace {

DType parse_dtype(const std::string& name) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw std::invalid_argument("dtype: expected float16, bfloat16, float32 or float64, got " + name);
}

Problem make_problem(int64_t seq_len, int64_t batch, int64_t input_size, int64_t hidden_size, int64_t proj_size,
                     int64_t num_layers, int64_t num_directions, const std::string& dtype, bool allow_tf32,
                     bool training, bool has_lengths, bool has_reset, bool is_variant, bool has_norms) {
  return {seq_len,    batch,    input_size,  hidden_size, proj_size,  num_layers, num_directions, parse_dtype(dtype),
          allow_tf32, training, has_lengths, has_reset,   is_variant, has_norms};
}

py::object chosen(const Plan& plan) {
  return plan.chosen < 0 ? py::object(py::none()) : py::cast(plan.candidates[plan.chosen]);
}

const char* split_name(const CpuPlan& plan) { return plan.split == CpuPlan::kGates ? "gates" : "rows"; }

const char* cpu_kernel_name(const CpuPlan& plan) {
  return plan.kernel == CpuPlan::kPacked ? "packed" : plan.kernel == CpuPlan::kDirect ? "direct" : "one_step";
}

void bind_inputs(py::module_& module) {
  py::class_<Problem>(module, "Problem")
      .def(py::init(&make_problem), py::kw_only(), py::arg("seq_len") = 1, py::arg("batch") = 1,
           py::arg("input_size") = 1, py::arg("hidden_size") = 1, py::arg("proj_size") = 0, py::arg("num_layers") = 1,
           py::arg("num_directions") = 1, py::arg("dtype") = "float32", py::arg("allow_tf32") = false,
           py::arg("training") = false, py::arg("has_lengths") = false, py::arg("has_reset") = false,
           py::arg("is_variant") = false, py::arg("has_norms") = false)
      .def_readonly("seq_len", &Problem::seq_len)
      .def_readonly("batch", &Problem::batch)
      .def_readonly("input_size", &Problem::input_size)
      .def_readonly("hidden_size", &Problem::hidden_size)
      .def_readonly("proj_size", &Problem::proj_size)
      .def_readonly("num_layers", &Problem::num_layers)
      .def_readonly("num_directions", &Problem::num_directions)
      .def_property_readonly("dtype", [](const Problem& problem) { return dtype_name(problem.dtype); })
      .def_readonly("allow_tf32", &Problem::allow_tf32)
      .def_readonly("training", &Problem::training)
      .def_readonly("has_lengths", &Problem::has_lengths)
      .def_readonly("has_reset", &Problem::has_reset)
      .def_readonly("is_variant", &Problem::is_variant)
      .def_readonly("has_norms", &Problem::has_norms);

  py::class_<DeviceInfo>(module, "DeviceInfo")
      .def_readonly("name", &DeviceInfo::name)
      .def_readonly("is_cuda", &DeviceInfo::is_cuda)
      .def_readonly("compute_capability", &DeviceInfo::compute_capability)
      .def_readonly("num_sms", &DeviceInfo::num_sms)
      .def_readonly("shared_bytes_per_block", &DeviceInfo::shared_bytes_per_block)
      .def_readonly("shared_bytes_per_sm", &DeviceInfo::shared_bytes_per_sm)
      .def_readonly("registers_per_sm", &DeviceInfo::registers_per_sm)
      .def_readonly("l2_bytes", &DeviceInfo::l2_bytes)
      .def_readonly("max_cluster_size", &DeviceInfo::max_cluster_size)
      .def_readonly("clock_mhz", &DeviceInfo::clock_mhz)
      .def_readonly("memory_gb_per_s", &DeviceInfo::memory_gb_per_s)
      .def_property_readonly("resident_clusters",
                             [](const DeviceInfo& device) {
                               const auto& clusters = device.resident_clusters;
                               return std::vector<int64_t>(std::begin(clusters), std::end(clusters));
                             })
      .def_readonly("cpu", &DeviceInfo::cpu);

  py::class_<CpuFacts>(module, "CpuFacts")
      .def(py::init([](int64_t num_threads, int64_t vector_bytes, bool multiplies_pairs, int64_t l2_bytes,
                       int64_t l1_bytes) {
             return CpuFacts{num_threads, vector_bytes, multiplies_pairs, l2_bytes, l1_bytes};
           }),
           py::arg("num_threads") = CpuFacts{}.num_threads, py::arg("vector_bytes") = CpuFacts{}.vector_bytes,
           py::arg("multiplies_pairs") = CpuFacts{}.multiplies_pairs, py::arg("l2_bytes") = CpuFacts{}.l2_bytes,
           py::arg("l1_bytes") = CpuFacts{}.l1_bytes)
      .def_readonly("num_threads", &CpuFacts::num_threads)
      .def_readonly("vector_bytes", &CpuFacts::vector_bytes)
      .def_readonly("multiplies_pairs", &CpuFacts::multiplies_pairs)
      .def_readonly("l2_bytes", &CpuFacts::l2_bytes)
      .def_readonly("l1_bytes", &CpuFacts::l1_bytes);
}

std::map<std::string, double> step_parts(const Problem& problem, const DeviceInfo& device, const std::string& kind,
                                         bool backward) {
  std::map<std::string, double> counts;
  for (const Candidate& c : make_plan(problem, device, {}, /*side_by_side=*/true).candidates) {
    if (!c.legal || kind_name(c.launch.kind) != kind) continue;
    const Launch launch = backward ? c.backward.value() : c.launch;
    for (const Part& part : cuda_step_parts(problem, device, launch, backward)) counts[part.name] += part.count;
  }
  return counts;
}

void bind_plan(py::module_& module) {
  py::class_<Candidate>(module, "Candidate")
      .def_property_readonly("kind", [](const Candidate& candidate) { return kind_name(candidate.launch.kind); })
      .def_readonly("legal", &Candidate::legal)
      .def_readonly("built", &Candidate::built)
      .def_readonly("reason", &Candidate::reason)
      .def_readonly("register_bytes", &Candidate::register_bytes)
      .def_readonly("launches", &Candidate::launches)
      .def_property_readonly("us_per_step", [](const Candidate& c) { return c.step.us; })
      .def_property_readonly("launch_us_per_step", [](const Candidate& c) { return c.step.launch_us; })
      .def_property_readonly("blocks_per_group", [](const Candidate& c) { return c.launch.blocks_per_group; })
      .def_property_readonly("num_groups", [](const Candidate& c) { return c.launch.num_groups; })
      .def_property_readonly("units_per_block", [](const Candidate& c) { return c.launch.units_per_block; })
      .def_property_readonly("rows_per_group", [](const Candidate& c) { return c.launch.rows_per_group; })
      .def_property_readonly("threads_per_block", [](const Candidate& c) { return c.launch.threads_per_block; })
      .def_property_readonly("layers_at_once", [](const Candidate& c) { return c.launch.num_layers; })
      .def_property_readonly("backward_layers_at_once",
                             [](const Candidate& c) { return c.backward.value_or(c.launch).num_layers; })
      .def_property_readonly("fuses_input", [](const Candidate& c) { return c.launch.fuses_input; })
      .def_property_readonly("shared_bytes", [](const Candidate& c) { return c.launch.shared_bytes; });

  py::class_<CpuPlan>(module, "CpuPlan")
      .def_property_readonly("split", &split_name)
      .def_readonly("num_tasks", &CpuPlan::num_tasks)
      .def_property_readonly("kernel", &cpu_kernel_name)
      .def_readonly("direct_w_ih", &CpuPlan::direct_w_ih);

  py::class_<Plan>(module, "Plan")
      .def_readonly("problem", &Plan::problem)
      .def_readonly("device", &Plan::device)
      .def_readonly("candidates", &Plan::candidates)
      .def_property_readonly("chosen", &chosen)
      .def_property_readonly("kernel",
                             [](const Plan& plan) {
                               return plan.chosen < 0 ? "none" : kind_name(plan.candidates[plan.chosen].launch.kind);
                             })
      .def_property_readonly(
          "cpu", [](const Plan& plan) { return plan.device.is_cuda ? py::object(py::none()) : py::cast(plan.cpu); })
      .def("__str__", &to_string)
      .def("__repr__", &to_string);
}

}  // namespace
}  // namespace lstm_fused

PYBIND11_MODULE(_plan, module) {
  using namespace lstm_fused;
  module.doc() = "Problem and device in, plan out, as data.";
  bind_inputs(module);
  bind_plan(module);
  bind_stream(module);
  module.def("plan", &make_plan, py::arg("problem"), py::arg("device"), py::arg("built") = std::set<std::string>(),
             py::arg("side_by_side") = false);
  module.def("step_parts", &step_parts, py::arg("problem"), py::arg("device"), py::arg("kind"),
             py::arg("backward") = false);
  module.def("plan_cpu", &plan_cpu, py::arg("problem"), py::arg("cpu"));
  module.def("cpu_device", &cpu_device, py::arg("cpu"));
  module.def("cuda_device", &cuda_device, py::arg("name"), py::arg("facts"));
  module.def("known_devices", &known_devices);
}
