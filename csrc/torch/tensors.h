// Small words over the stable ABI: what the ops need from torch, spelled once.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/large_pages.h"

namespace lstm_fused {

using Tensor = torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using ScalarType = torch::headeronly::ScalarType;
using Sizes = std::vector<int64_t>;
using SizeList = torch::headeronly::IntHeaderOnlyArrayRef;  // as an argument: takes no memory

// Calls of torch's C functions stand in TORCH_ERROR_CODE_CHECK: the same macro with STABLE_ before it is of 2.13 only.

// torch's own number of a type.
inline int32_t code(ScalarType dtype) { return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)); }

// Not by scalar_type(), which asks torch for the number of one type after the other.
inline bool has_type(const Tensor& tensor, ScalarType dtype) {
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &type));
  return type == code(dtype);
}

// Not new_empty, which looks the operator up by its name: a call with T = 1 makes half a dozen tensors.
inline Tensor empty(SizeList sizes, const Tensor& like, ScalarType dtype) {
  std::array<int64_t, 4> strides;
  int64_t stride = 1;
  for (size_t n = sizes.size(); n-- > 0; stride *= sizes[n] > 1 ? sizes[n] : 1) strides[n] = stride;
  int32_t device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  code(dtype), device_type, device_index, &handle));
  const Tensor result(handle);
  constexpr int64_t kLarge = 4 << 20;
  int64_t bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(handle, &bytes));
  if (bytes >= kLarge && device_type == aoti_torch_device_type_cpu())
    prefer_large_pages(result.mutable_data_ptr(), bytes);
  return result;
}

template <class From, class To>
Tensor converted(const Tensor& tensor, ScalarType dtype) {
  const Tensor result = empty(tensor.sizes(), tensor, dtype);
  std::copy_n(static_cast<const From*>(tensor.const_data_ptr()), tensor.numel(),
              static_cast<To*>(result.mutable_data_ptr()));
  return result;
}

// Row-major and of `dtype`; the tensor itself where it already is. A few elements on the CPU are converted here:
// torch's operator takes a microsecond, and a call of a half type with T = 1 converts a dozen tensors.
inline Tensor dense(const Tensor& tensor, ScalarType dtype) {
  constexpr int64_t kFew = 1024;
  const bool same = has_type(tensor, dtype), contiguous = tensor.is_contiguous();
  if (same && contiguous) return tensor;
  if (contiguous && tensor.numel() <= kFew && tensor.is_cpu()) {
    const bool to_float = dtype == ScalarType::Float, from_float = has_type(tensor, ScalarType::Float);
    if (to_float && has_type(tensor, ScalarType::BFloat16)) return converted<c10::BFloat16, float>(tensor, dtype);
    if (to_float && has_type(tensor, ScalarType::Half)) return converted<c10::Half, float>(tensor, dtype);
    if (from_float && dtype == ScalarType::BFloat16) return converted<float, c10::BFloat16>(tensor, dtype);
    if (from_float && dtype == ScalarType::Half) return converted<float, c10::Half>(tensor, dtype);
  }
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

// A row-major matrix on the CPU, or its transpose, as a tensor that does not own it, for an operator of torch's. It
// takes a tenth of the time of narrow, view and transpose, which are looked up by name.
template <class T>
Tensor matrix(const T* p, int64_t rows, int64_t columns, bool transposed = false) {
  const int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
  const int64_t swapped_sizes[] = {columns, rows}, swapped_strides[] = {1, columns};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
      const_cast<T*>(p), 2, transposed ? swapped_sizes : sizes, transposed ? swapped_strides : strides, 0,
      std::is_same_v<T, double> ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), aoti_torch_device_type_cpu(),
      0, &handle));
  return Tensor(handle);
}

// An operator that returns one tensor: for those that the stable ABI has no function for.
template <class... Arguments>
Tensor call_operator(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Without a graph, for as long as it lives: where no formula is registered, autograd still looks at what an operator
// calls, and refuses out= for weights that are trained.
class NoGrad {
 public:
  NoGrad() : was_enabled_(aoti_torch_grad_mode_is_enabled()) { aoti_torch_grad_mode_set_enabled(false); }
  ~NoGrad() { aoti_torch_grad_mode_set_enabled(was_enabled_); }
  NoGrad(const NoGrad&) = delete;

 private:
  bool was_enabled_;
};

// out = a b. The out= form, because autocast leaves it alone.
inline void mm_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  const NoGrad no_grad;
  call_operator("aten::mm", "out", a, b, out);
}

// The stable ABI has a difference with a factor, and no sum.
inline Tensor add(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1.0); }

inline Tensor multiply(const Tensor& a, const Tensor& b) { return call_operator("aten::mul", "Tensor", a, b); }

// (T, 1), with 1 to T in it: beside lengths, what a step is compared with.
inline Tensor counted_steps(int64_t seq_len, const Tensor& lengths) {
  Tensor ones = empty({seq_len, 1}, lengths, ScalarType::Long);
  torch::stable::fill_(ones, 1.0);
  return call_operator("aten::cumsum", "", ones, int64_t{0}, std::optional<ScalarType>());
}

// A copy of x (T, B, ..) with zeros past each row's length: what lies there was never read, and zero times NaN would
// not be zero.
inline Tensor without_padding(const Tensor& x, const Tensor& lengths) {
  const Tensor exists = call_operator("aten::le", "Tensor", counted_steps(x.size(0), lengths), lengths);  // (T, B)
  return call_operator("aten::where", "self", torch::stable::view(exists, {x.size(0), x.size(1), 1}), x,
                       torch::stable::new_zeros(x, {1}));
}

// Elements [begin, begin + size) of a dimension.
inline Tensor part(const Tensor& tensor, int64_t dim, int64_t begin, int64_t size) {
  Tensor whole = tensor;
  return torch::stable::narrow(whole, dim, begin, size);
}

// The same bytes as elements of another type.
inline Tensor reinterpret(const Tensor& tensor, ScalarType dtype) {
  return call_operator("aten::view", "dtype", tensor, dtype);
}

}  // namespace lstm_fused
