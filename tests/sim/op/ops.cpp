// The op for CUDA tensors, run on CPU tensors: csrc/torch, csrc/plan and csrc/kernels as they are, on the simulator.
// Here is what a GPU and its driver would bring: devices, their facts and a stream.
#include "torch/ops.h"

#include "kernels/device_query.h"
#include "plan/device_info.h"
#include "torch/stream.h"

namespace {

// Device 0 is an H100. Device 1 has as few registers as `step` needs, which leaves none for the persistent kinds.
int current_device = 0;

}  // namespace

extern "C" __attribute__((visibility("default"))) void sim_use_device(int index) { current_device = index; }

namespace lstm_fused {

int query_device(int index, DeviceFacts* facts) {
  for (const DeviceInfo& known : known_devices())
    if (known.name == "H100") *facts = known;
  if (index == 1) facts->registers_per_sm = 0;
  return 0;
}

const char* error_text(int error) { return error == 0 ? "no error" : "the simulator refuses the launch"; }

struct DeviceScope::Guard {};
DeviceScope::DeviceScope(const Tensor&) : device_(current_device) {}
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
