// What a stream on any device asks before it computes: does another thread use it, are the parameters as they were?
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <vector>

#include "python/dlpack.h"

namespace lstm_fused {

// A parameter as it was when the weights were packed. Assignment to a module puts another object into its dict, a
// change in place counts the version up, and assignment to `data` (Module.to) moves it.
struct Watched {
  pybind11::dict parameters;
  pybind11::str name;
  pybind11::object tensor;
  bool has_version;  // made in inference mode it has none
  int64_t version = 0;
  const void* data = nullptr;
};

class StreamGuard {
 public:
  explicit StreamGuard(const pybind11::type& tensor_type) : tensor_type(tensor_type) {
    const pybind11::capsule capsule = tensor_type.attr("__dlpack_c_exchange_api__");
    api = capsule.get_pointer<const dlpack::ExchangeApi>();
    while (api != nullptr && api->version.major != dlpack::kMajorVersion) api = api->older;
    if (api == nullptr)
      throw std::runtime_error("Stream: this torch has another version of DLPack's exchange of tensors");
  }

  void enter() {
    if (busy.test_and_set(std::memory_order_acquire))
      throw std::runtime_error("Stream: another thread is using it; a stream serves one thread at a time");
  }
  void leave() { busy.clear(std::memory_order_release); }

  void watch(const std::vector<std::tuple<pybind11::dict, pybind11::str, pybind11::object>>& parameters) {
    watched.clear();
    for (const auto& [dict, name, tensor] : parameters) {
      watched.push_back({dict, name, tensor, !tensor.attr("is_inference")().cast<bool>()});
      look(watched.back(), &watched.back().version, &watched.back().data);
    }
  }

  bool unchanged() const {
    for (const Watched& one : watched) {
      int64_t version;
      const void* data;
      if (PyDict_GetItemWithError(one.parameters.ptr(), one.name.ptr()) != one.tensor.ptr()) return false;
      if (!look(one, &version, &data) || version != one.version || data != one.data) return false;
    }
    return true;
  }

 protected:
  struct Turn {
    StreamGuard& guard;
    explicit Turn(StreamGuard& guard) : guard(guard) { guard.enter(); }
    ~Turn() { guard.leave(); }
  };

  static char* data(const dlpack::Tensor& tensor) { return static_cast<char*>(tensor.data) + tensor.byte_offset; }

  const pybind11::type tensor_type;
  const dlpack::ExchangeApi* api;

 private:
  // False where it is no memory that could be read.
  bool look(const Watched& one, int64_t* version, const void** data) const {
    dlpack::Tensor seen;
    *version = 0;
    if (one.has_version) {
      PyObject* const found = PyObject_GetAttr(one.tensor.ptr(), version_name.ptr());
      if (found == nullptr) throw pybind11::error_already_set();
      *version = PyLong_AsLongLong(found);
      Py_DECREF(found);
    }
    if (api->look_at(one.tensor.ptr(), &seen) != 0) {
      PyErr_Clear();
      return false;
    }
    *data = this->data(seen);
    return true;
  }

  const pybind11::str version_name = "_version";
  std::vector<Watched> watched;
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
};

}  // namespace lstm_fused
