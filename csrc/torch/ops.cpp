// Registration, but for CUDA tensors, which a build without CUDA has nothing for: cuda/ops.cpp.
#include "torch/ops.h"

#include <string>

#include "cpu/kernels.h"
#include "kernels/device_query.h"
#include "kernels/table.h"
#include "torch/variant.h"

namespace lstm_fused {

std::vector<int64_t> stream_facts();  // cpu/stream.cpp

namespace {

std::string cpu_isa() { return instruction_set().name; }

std::vector<int64_t> cpu_facts() {
  return {instruction_set().vector_bytes, instruction_set().multiplies_pairs, l2_bytes(), l1_bytes()};
}

std::string kernels() { return kernel_names(); }

std::vector<int64_t> device_facts(int64_t device) {
  DeviceFacts facts;
  const int error = query_device(static_cast<int>(device), &facts);
  STD_TORCH_CHECK(error == 0, "lstm_fused: cuda:", device, " cannot be asked: ", error_text(error));
  const int64_t* first = &facts.compute_capability;
  return {first, first + kNumDeviceFacts};
}

}  // namespace

STABLE_TORCH_LIBRARY(lstm_fused, m) {
  define_ops(m);
  define_variants(m);
  m.def("cpu_isa() -> str");                   // the instruction set that the CPU kernels run
  m.def("cpu_facts() -> int[]");               // CpuFacts but for the threads, in its order
  m.def("kernels() -> str");                   // names of the CUDA kernels, comma-separated
  m.def("device_facts(int device) -> int[]");  // csrc/device_facts.h, in its order
  m.def("stream_facts() -> int[]");            // cpu/stream.cpp
}

STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CPU, m) {
  implement<Ops<forward_cpu, backward_cpu>>(m);
  implement_variants<VariantOps<variant_cpu, variant_backward_cpu>>(m);
}

STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("cpu_facts", TORCH_BOX(&cpu_facts));
  m.impl("kernels", TORCH_BOX(&kernels));
  m.impl("device_facts", TORCH_BOX(&device_facts));
  m.impl("stream_facts", TORCH_BOX(&stream_facts));
}

}  // namespace lstm_fused
