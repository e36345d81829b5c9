// The LSTM cell, forward and backward: the one place that knows the order i, f, g, o and the formulae.
//   i, f, o = sigmoid(pre), g = tanh(pre), c = f * c_prev + i * g, h = o * tanh(c)
// V is a float, a double or a vector of them; Math supplies sigmoid(V) and tanh(V), so that CPU vectors and CUDA
// threads share the arithmetic and bring their own transcendental functions.
#pragma once

#ifdef __CUDACC__
#define LSTM_FUSED_INLINE __host__ __device__ __forceinline__
#else
#define LSTM_FUSED_INLINE inline __attribute__((always_inline))
#endif

namespace lstm_fused {

constexpr int kNumGates = 4;

template <class V>
struct Gates {
  V i, f, g, o;
};

template <class Math, class V>
LSTM_FUSED_INLINE Gates<V> activate(const Gates<V>& pre) {
  return {Math::sigmoid(pre.i), Math::sigmoid(pre.f), Math::tanh(pre.g), Math::sigmoid(pre.o)};
}

template <class V>
LSTM_FUSED_INLINE V next_cell(const Gates<V>& gates, const V& c_prev) {
  return gates.f * c_prev + gates.i * gates.g;
}

// The same where i * g was formed before.
template <class V>
LSTM_FUSED_INLINE V next_cell(const V& f, const V& c_prev, const V& added) {
  return f * c_prev + added;
}

template <class Math, class V>
LSTM_FUSED_INLINE V next_hidden(const Gates<V>& gates, const V& c) {
  return gates.o * Math::tanh(c);
}

template <class V>
struct CellGradient {
  Gates<V> pre;  // of the pre-activations
  V c_prev;
};

// `gates` are the activated ones; grad_h and grad_c are the whole gradients of this step's h and c.
template <class V>
LSTM_FUSED_INLINE CellGradient<V> cell_backward(const Gates<V>& gates, const V& c_prev, const V& tanh_c,
                                                const V& grad_h, const V& grad_c) {
  const V grad_c_total = grad_c + grad_h * gates.o * (1 - tanh_c * tanh_c);
  return {{grad_c_total * gates.g * gates.i * (1 - gates.i),  //
           grad_c_total * c_prev * gates.f * (1 - gates.f),   //
           grad_c_total * gates.i * (1 - gates.g * gates.g),  //
           grad_h * tanh_c * gates.o * (1 - gates.o)},
          grad_c_total * gates.f};
}

}  // namespace lstm_fused
