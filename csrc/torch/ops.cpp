// Registration.
#include "torch/ops.h"

#include <string>

#include "cpu/kernels.h"
#include "kernels/device_query.h"
#include "kernels/table.h"

namespace lstm_fused {
namespace {

std::string cpu_isa() { return instruction_set().name; }

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
  m.def(kForwardSchema);
  m.def(kInferSchema);
  m.def(kBackwardSchema);
  m.def(kCellSchema);
  m.def(kCellBackwardSchema);
  m.def("cpu_isa() -> str");                   // the instruction set that the CPU kernels run
  m.def("kernels() -> str");                   // names of the CUDA kernels, comma-separated
  m.def("device_facts(int device) -> int[]");  // csrc/device_facts.h, in its order
  m.def("stream_facts() -> int[]");            // cpu_stream.cpp
}

STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CPU, m) {
  m.impl("forward", TORCH_BOX(&forward_cpu));
  m.impl("infer", TORCH_BOX(&infer_cpu));
  m.impl("backward", TORCH_BOX(&backward_cpu));
  m.impl("cell", TORCH_BOX(&cell_cpu));
  m.impl("cell_backward", TORCH_BOX(&cell_backward_cpu));
}

#ifdef LSTM_FUSED_CUDA
STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CUDA, m) {
  m.impl("forward", TORCH_BOX(&forward_cuda));
  m.impl("infer", TORCH_BOX(&infer_cuda));
  m.impl("backward", TORCH_BOX(&backward_cuda));
  m.impl("cell", TORCH_BOX(&cell_cuda));
  m.impl("cell_backward", TORCH_BOX(&cell_backward_cuda));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("kernels", TORCH_BOX(&kernels));
  m.impl("device_facts", TORCH_BOX(&device_facts));
  m.impl("stream_facts", TORCH_BOX(&stream_facts));
}

}  // namespace lstm_fused
