// What forward did not keep, from the h that it did.
#pragma once

#include <functional>

#include "torch/stack.h"

namespace lstm_fused {

// y = x w^T, of dense matrices of compute_dtype.
using Product = std::function<void(const Tensor& y, const Tensor& x, const Tensor& w)>;

// h_prev (T*B, P) becomes the h that each step of one direction of a layer started from; past a row's length it is
// nothing, but finite. h_0: (L*D, B, P); layer_output: (T, B, D*P).
void copy_h_prev(const Stack& stack, int64_t layer, int64_t direction, const Tensor& h_0, const Tensor& layer_output,
                 const Options& options, const Tensor& h_prev);

// The pre-activations (T*B, 4H) of one direction of a layer, all time steps at once, by one product into `gates`. They
// are forward's but for rounding; past a row's length they are nothing. On the way h_prev is made, as above. x: (T*B,
// I), the layer's input. All are in compute_dtype.
void regenerate_pre_activations(const Stack& stack, int64_t layer, int64_t direction, const DirectionWeights& weights,
                                const Tensor& x, const Tensor& h_0, const Tensor& layer_output, const Options& options,
                                const Tensor& h_prev, const Tensor& gates, const Product& product);

}  // namespace lstm_fused
