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

std::tuple<Tensor, Tensor, Tensor, Tensor> cell_backward_gates(OptionalTensor grad_h, OptionalTensor grad_c,
                                                               Tensor input, OptionalTensor h_0, OptionalTensor c_0,
                                                               std::vector<Tensor> weights, Tensor reserve,
                                                               bool needs_input_grad, bool needs_state_grads) {
  const Needs needs{.input = needs_input_grad, .weights = false, .states = needs_state_grads, .gates = true};
  const CellCall call{input, h_0, c_0, std::move(weights), false};
  const InputGrads grads = run_cell_backward(backward_cpu, call, {grad_h, grad_c}, reserve, needs);
  return {or_none(grads.input, input), or_none(grads.h_0, input), or_none(grads.c_0, input), *grads.gates};
}

std::vector<Tensor> cell_weight_grads(Tensor grad_gates, Tensor input, Tensor h_0, std::vector<Tensor> weights) {
  return cell_weight_gradients_cpu({grad_gates, input, h_0}, weights);
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
  m.impl("cell_backward_gates", TORCH_BOX(&cell_backward_gates));
  m.impl("cell_weight_grads", TORCH_BOX(&cell_weight_grads));
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
