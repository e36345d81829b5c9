// Small words over the stable ABI: what the ops need from torch, spelled once.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace lstm_fused {

using Tensor = torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using ScalarType = torch::headeronly::ScalarType;
using Sizes = std::vector<int64_t>;
using SizeList = torch::headeronly::IntHeaderOnlyArrayRef;  // as an argument: takes no memory

// torch's own number of a type.
inline int32_t code(ScalarType dtype) { return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)); }

// Not by scalar_type(), which asks torch for the number of one type after the other.
inline bool has_type(const Tensor& tensor, ScalarType dtype) {
  int32_t type = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &type));
  return type == code(dtype);
}

// Not new_empty, which looks the operator up by its name: a call with T = 1 makes half a dozen tensors.
inline Tensor empty(SizeList sizes, const Tensor& like, ScalarType dtype) {
  std::array<int64_t, 4> strides;
  int64_t stride = 1;
  for (size_t n = sizes.size(); n-- > 0; stride *= sizes[n] > 1 ? sizes[n] : 1) strides[n] = stride;
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), code(dtype), device_type, device_index,
                                                         &handle));
  return Tensor(handle);
}

// Row-major and of `dtype`; the tensor itself where it already is.
inline Tensor dense(const Tensor& tensor, ScalarType dtype) {
  const bool same = has_type(tensor, dtype);
  if (same && tensor.is_contiguous()) return tensor;
  return torch::stable::contiguous(same ? tensor : torch::stable::to(tensor, dtype));
}

inline OptionalTensor dense(const OptionalTensor& tensor, ScalarType dtype) {
  return tensor ? OptionalTensor(dense(*tensor, dtype)) : std::nullopt;
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <class T>
T* data(const OptionalTensor& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

template <class T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* const_data(const OptionalTensor& tensor) {
  return tensor ? const_data<T>(*tensor) : nullptr;
}

inline Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

// Elements [begin, begin + product of sizes) of a flat tensor.
inline Tensor slice(const Tensor& flat, int64_t begin, const Sizes& sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  Tensor part = flat;
  return torch::stable::view(torch::stable::narrow(part, 0, begin, count), sizes);
}

// An operator that returns one tensor: for those that the stable ABI has no function for.
template <class... Arguments>
Tensor call_operator(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// out = a b. The out= form, because autocast leaves it alone.
inline void mm_out(const Tensor& out, const Tensor& a, const Tensor& b) { call_operator("aten::mm", "out", a, b, out); }

// The stable ABI has a difference with a factor, and no sum.
inline Tensor add(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1.0); }

inline Tensor multiply(const Tensor& a, const Tensor& b) { return call_operator("aten::mul", "Tensor", a, b); }

// (T, 1), with 1 to T in it: beside lengths, what a step is compared with.
inline Tensor counted_steps(int64_t seq_len, const Tensor& lengths) {
  Tensor ones = empty({seq_len, 1}, lengths, ScalarType::Long);
  torch::stable::fill_(ones, 1.0);
  return call_operator("aten::cumsum", "", ones, int64_t{0}, std::optional<ScalarType>());
}

// The same bytes as elements of another type.
inline Tensor reinterpret(const Tensor& tensor, ScalarType dtype) {
  return call_operator("aten::view", "dtype", tensor, dtype);
}

}  // namespace lstm_fused
