// The op for CUDA tensors, run on CPU tensors: csrc/torch, csrc/plan and csrc/kernels as they are, on the simulator.
// Here is what a GPU, an H100, and its driver would bring: its facts and a stream.
#include "torch/ops.h"

#include "kernels/device_query.h"
#include "plan/device_info.h"
#include "torch/stream.h"

namespace lstm_fused {

int query_device(int, DeviceFacts* facts) {
  for (const DeviceInfo& known : known_devices())
    if (known.name == "H100") *facts = known;
  return 0;
}

const char* error_text(int error) { return error == 0 ? "no error" : "the simulator refuses the launch"; }

struct DeviceScope::Guard {};
DeviceScope::DeviceScope(const Tensor&) : device_(0) {}
DeviceScope::~DeviceScope() = default;

STABLE_TORCH_LIBRARY(lstm_fused_sim, m) {
  m.def(kForwardSchema);
  m.def(kBackwardSchema);
}

STABLE_TORCH_LIBRARY_IMPL(lstm_fused_sim, CPU, m) {
  m.impl("forward", TORCH_BOX(&forward_cuda));
  m.impl("backward", TORCH_BOX(&backward_cuda));
}

}  // namespace lstm_fused
