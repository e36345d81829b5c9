// The gradients of weights: products of two tall matrices, behind the recurrence.
#pragma once

#include "torch/cpu/cpu.h"

namespace lstm_fused {

// Of T, or where T is float, of a half type.
struct Rows {
  const void* data;
  DType type;
};

// Of one direction of a layer: the gradients of its weights, in T, which grow from range to range; in the weights'
// dtype where one product has them as they stay.
template <class T>
class WeightGradients {
 public:
  WeightGradients(const Stack& stack, int64_t input_size, const Tensor& like, bool one_range, const Parallel& parallel)
      : stack_(stack),
        parallel_(parallel),
        type_(one_range && stack.num_rows() <= kRoundedTerms ? stack.dtype : kScalarType<T>) {
    const int64_t gates = kNumGates * stack.hidden_size;
    const auto make = [&](SizeList sizes) { return empty(sizes, like, type_); };
    w_ih_ = make({gates, input_size});
    w_hh_ = make({gates, stack.proj_width});
    if (stack.has_biases) bias_ = empty({gates}, like, kScalarType<T>);
    if (stack.has_projection) w_hr_ = make({stack.proj_width, stack.hidden_size});
  }

  // The gradients of a range of `rows` rows, and what they are multiplied with.
  void add(int64_t rows, Rows grad_gates, const T* x, const T* h_prev, const T* grad_h, const T* hidden) {
    const int64_t gates = kNumGates * stack_.hidden_size;
    product(rows, grad_gates, gates, factor(x, w_ih_), factor(h_prev, w_hh_));
    if (bias_)
      cpu_kernels<T>(stack_).sum_rows({rows, gates, grad_gates.data, grad_gates.type, data<T>(*bias_), adds_},
                                      parallel_);
    if (w_hr_) product(rows, {grad_h, kernel_type(kScalarType<T>)}, stack_.proj_width, factor(hidden, *w_hr_));
    adds_ = true;
  }

  // Of w_ih, w_hh, [b_ih, b_hh], [w_hr] in the weights' dtype.
  void append_to(std::vector<Tensor>& gradients) const {
    const auto append = [&](const Tensor& gradient) { gradients.push_back(dense(gradient, stack_.dtype)); };
    append(w_ih_);
    append(w_hh_);
    if (bias_) {
      append(*bias_);
      const Tensor same = empty({kNumGates * stack_.hidden_size}, w_ih_, kScalarType<T>);
      std::copy_n(const_data<T>(*bias_), same.numel(), data<T>(same));
      append(same);
    }
    if (w_hr_) append(*w_hr_);
  }

 private:
  ProductFactor factor(const T* rows, const Tensor& result) const {
    return {result.size(1), rows, kernel_type(kScalarType<T>), data<void>(result), kernel_type(type_), adds_};
  }

  void product(int64_t rows, Rows grad, int64_t width, const ProductFactor& first,
               const ProductFactor& second = {}) const {
    ProductParams<T> params = weight_gradients<T>(rows, grad.data, width, stack_.batch, first, second);
    params.a_type = grad.type;
    multiply_matrices<T>(cpu_kernels<T>(stack_), params, w_ih_);
  }

  const Stack& stack_;
  const Parallel& parallel_;
  const ScalarType type_;
  Tensor w_ih_, w_hh_;
  OptionalTensor bias_, w_hr_;
  bool adds_ = false;
};

}  // namespace lstm_fused
