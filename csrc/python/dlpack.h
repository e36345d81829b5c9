// DLPack's exchange of tensors in C (dmlc/dlpack, version 1.3), as far as it is used here: torch.Tensor offers a table
// of functions, __dlpack_c_exchange_api__, that looks at a tensor and makes one without Python's or torch's dispatch.
#pragma once

#include <cstdint>

namespace lstm_fused::dlpack {

constexpr uint32_t kMajorVersion = 1;
struct Version {
  uint32_t major, minor;
};
struct Device {
  int32_t type, id;
};
constexpr int32_t kCpu = 1;

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
constexpr uint8_t kFloatCode = 2;

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct ManagedTensor;  // owns what it shows; whoever takes it is its owner

// Functions return 0, or -1 with Python's error set.
struct ExchangeApi {
  Version version;
  const ExchangeApi* older;
  int (*allocate)(Tensor* like, ManagedTensor** result, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*managed_from_python)(void* object, ManagedTensor** result);
  int (*to_python)(ManagedTensor*, void** object);
  int (*look_at)(void* object, Tensor* result);  // valid until control returns to Python
  int (*current_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace lstm_fused::dlpack
