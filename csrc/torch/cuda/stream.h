// Where a call's kernels go: the device of its tensors, and torch's current stream there.
#pragma once

#include <memory>

#include "torch/tensors.h"

namespace lstm_fused {

// Makes the tensor's device the current one for as long as it lives.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& tensor);
  ~DeviceScope();

  int device() const { return device_; }
  void* stream() const { return stream_; }  // a cudaStream_t

 private:
  struct Guard;
  std::unique_ptr<Guard> guard_;
  int device_;
  void* stream_ = nullptr;
};

}  // namespace lstm_fused
