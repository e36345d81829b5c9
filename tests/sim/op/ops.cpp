// The op for CUDA tensors, run on CPU tensors: csrc/torch, csrc/plan and csrc/kernels as they are, on the simulator.
// Here is what a GPU and its driver would bring: its facts and a stream. Device 0 is an H100, device n one with n SMs.
#include "torch/ops.h"

#include "kernels/device_query.h"
#include "plan/device_info.h"
#include "torch/cuda/stream.h"
#include "torch/variant.h"

namespace {
int chosen_device = 0;
}
extern "C" __attribute__((visibility("default"))) void sim_set_device(int number) { chosen_device = number; }

namespace lstm_fused {

int query_device(int device, DeviceFacts* facts) {
  for (const DeviceInfo& known : known_devices())
    if (known.name == "H100") *facts = known;
  if (device > 0) facts->num_sms = device;
  return 0;
}

const char* error_text(int error) { return error == 0 ? "no error" : "the simulator refuses the launch"; }

struct DeviceScope::Guard {};
DeviceScope::DeviceScope(const Tensor&) : device_(chosen_device) {}
DeviceScope::~DeviceScope() = default;

STABLE_TORCH_LIBRARY(lstm_fused_sim, m) {
  define_ops(m);
  define_variants(m);
}

STABLE_TORCH_LIBRARY_IMPL(lstm_fused_sim, CPU, m) {
  implement<Ops<forward_cuda, backward_cuda>>(m);
  implement_variants<VariantOps<variant_cuda, variant_backward_cuda>>(m);
}

}  // namespace lstm_fused
