#include "torch/cuda/stream.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

// Of libtorch_cuda, which a CPU build of torch does not have: hence weak.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace lstm_fused {
namespace {

using GetStream = AOTITorchError (*)(int32_t device, void** stream);

// A library that was loaded before libtorch_cuda has its weak references unresolved for good.
GetStream find_get_stream() {
  if (aoti_torch_get_current_cuda_stream != nullptr) return aoti_torch_get_current_cuda_stream;
  void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  return library == nullptr ? nullptr
                            : reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

}  // namespace

struct DeviceScope::Guard {
  torch::stable::accelerator::DeviceGuard guard;
};

DeviceScope::DeviceScope(const Tensor& tensor) : device_(tensor.get_device_index()) {
  static const GetStream get_stream = find_get_stream();
  STD_TORCH_CHECK(get_stream != nullptr, "lstm_fused: this torch has no CUDA streams");
  guard_.reset(new Guard{torch::stable::accelerator::DeviceGuard(device_)});
  TORCH_ERROR_CODE_CHECK(get_stream(device_, &stream_));
}

DeviceScope::~DeviceScope() = default;

}  // namespace lstm_fused
