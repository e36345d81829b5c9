// A call of lstm_fused.Stream, from Python's objects to the kernel and back.
#include "python/stream.h"

#include <pybind11/stl.h>

#include <vector>

#include "cpu/large_pages.h"
#include "cpu/stream.h"
#include "python/stream_guard.h"

namespace py = pybind11;

namespace lstm_fused {
namespace {

// A short call, of some microseconds, keeps Python's lock: to get it back may take milliseconds where others want it.
constexpr int64_t kBytesWorthTheLock = 256 * 1024;

class StreamStep : public StreamGuard {
 public:
  using Run = void(const Stream&, bool is_double, int64_t seq_len, const void* x, void* y);

  StreamStep(const py::type& tensor_type, int64_t run, bool is_double, int64_t batch, int64_t input_size,
             int64_t hidden_size, int64_t proj_width, int weights, const std::vector<std::vector<int64_t>>& layers,
             const std::vector<int64_t>& memory, int64_t bytes_stride, int64_t step_bytes)
      : StreamGuard(tensor_type), run(reinterpret_cast<Run*>(run)), is_double(is_double), step_bytes(step_bytes) {
    const auto pointer = [](int64_t address) { return reinterpret_cast<void*>(address); };
    for (const std::vector<int64_t>& w : layers)
      this->layers.push_back({pointer(w.at(0)), pointer(w.at(1)), pointer(w.at(2)), pointer(w.at(3)), pointer(w.at(4)),
                              pointer(w.at(5)), pointer(w.at(6))});
    stream = {batch,
              input_size,
              hidden_size,
              proj_width,
              static_cast<int64_t>(layers.size()),
              this->layers.data(),
              static_cast<StreamWeights>(weights),
              pointer(memory.at(0)),
              pointer(memory.at(1)),
              pointer(memory.at(2)),
              pointer(memory.at(3)),
              pointer(memory.at(4)),
              static_cast<uint8_t*>(pointer(memory.at(5))),
              pointer(memory.at(6)),
              bytes_stride};
  }

  // y, or None where an argument is not plainly what is expected, or a parameter has changed.
  py::object operator()(py::handle x, py::handle out) {
    dlpack::Tensor in, to;
    if (!unchanged() || !look_at(x, stream.input_size, &in)) return py::none();
    const int64_t seq_len = in.ndim == 3 ? in.shape[0] : 1;
    py::object result;
    if (out.is_none()) {
      result = allocate(in);
      look_at(result, stream.proj_width, &to);
    } else {
      if (!look_at(out, stream.proj_width, &to) || to.ndim != in.ndim || (to.ndim == 3 && to.shape[0] != seq_len))
        return py::none();
      // A step's x is read before its y is written: the two may be one, but not shifted.
      const int64_t bytes = seq_len * stream.batch * static_cast<int64_t>(is_double ? sizeof(double) : sizeof(float));
      const char *x_data = data(in), *y_data = data(to);
      const bool overlaps = x_data < y_data + bytes * stream.proj_width && y_data < x_data + bytes * stream.input_size;
      if (overlaps && (x_data != y_data || stream.input_size != stream.proj_width)) return py::none();
      result = py::reinterpret_borrow<py::object>(out);
    }
    const Turn turn(*this);
    const auto call = [&] { run(stream, is_double, seq_len, data(in), data(to)); };
    if (step_bytes * seq_len > kBytesWorthTheLock) {
      const py::gil_scoped_release release;
      call();
    } else {
      call();
    }
    stream.steps_taken += seq_len;
    return result;
  }

 private:
  // Whether it is a contiguous tensor ([T,] B, width) of the stream's type, on the CPU.
  bool look_at(py::handle object, int64_t width, dlpack::Tensor* tensor) const {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != tensor_type.ptr()) return false;
    if (api->look_at(object.ptr(), tensor) != 0) {
      PyErr_Clear();
      return false;
    }
    const dlpack::Tensor& t = *tensor;
    if (t.device.type != dlpack::kCpu || t.dtype.code != dlpack::kFloatCode || t.dtype.bits != (is_double ? 64 : 32))
      return false;
    if (t.ndim != 2 && t.ndim != 3) return false;
    const int64_t *shape = t.shape + t.ndim - 2, *strides = t.strides + t.ndim - 2;
    // A stride between elements that are 1 says nothing, but a view may be negated where its last one is not 1.
    if (shape[0] != stream.batch || shape[1] != width || strides[1] != 1) return false;
    if (shape[0] > 1 && strides[0] != width) return false;
    return t.ndim == 2 || t.shape[0] == 1 || (t.shape[0] > 1 && t.strides[0] == stream.batch * width);
  }

  py::object allocate(const dlpack::Tensor& in) const {
    dlpack::Tensor like = in;
    int64_t shape[3] = {in.shape[0], in.shape[1], in.shape[2 * (in.ndim == 3)]};
    shape[in.ndim - 1] = stream.proj_width;
    like.shape = shape;
    dlpack::ManagedTensor* managed;
    const auto set_error = [](void*, const char*, const char* message) {
      PyErr_SetString(PyExc_RuntimeError, message);
    };
    void* object;
    if (api->allocate(&like, &managed, nullptr, set_error) != 0 || api->to_python(managed, &object) != 0)
      throw py::error_already_set();
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
  }

  Run* const run;
  const bool is_double;
  const int64_t step_bytes;  // weights, times rows
  std::vector<StreamLayer> layers;
  Stream stream;
};

}  // namespace

void bind_stream(py::module_& module) {
  py::class_<StreamGuard>(module, "StreamGuard")
      .def(py::init<const py::type&>(), py::arg("tensor_type"))
      .def("__enter__", &StreamGuard::enter)
      .def("__exit__", [](StreamGuard& guard, const py::args&) { guard.leave(); })
      .def("watch", &StreamGuard::watch)
      .def("unchanged", &StreamGuard::unchanged);
  py::class_<StreamStep, StreamGuard>(module, "StreamStep")
      .def(py::init<const py::type&, int64_t, bool, int64_t, int64_t, int64_t, int64_t, int,
                    const std::vector<std::vector<int64_t>>&, const std::vector<int64_t>&, int64_t, int64_t>(),
           py::kw_only(), py::arg("tensor_type"), py::arg("run"), py::arg("is_double"), py::arg("batch"),
           py::arg("input_size"), py::arg("hidden_size"), py::arg("proj_width"), py::arg("weights"), py::arg("layers"),
           py::arg("memory"), py::arg("bytes_stride"), py::arg("step_bytes"))
      .def("__call__", &StreamStep::operator());
  module.def(
      "prefer_large_pages",
      [](int64_t address, int64_t bytes) { prefer_large_pages(reinterpret_cast<void*>(address), bytes); },
      py::arg("address"), py::arg("bytes"));
  module.attr("STREAM_ROWS") = kStreamRows;
}

}  // namespace lstm_fused
