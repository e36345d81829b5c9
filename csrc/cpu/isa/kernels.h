// What the other files here define for the instruction set they are compiled for; table.cpp collects it.
#pragma once

#include "cpu/kernels.h"

namespace lstm_fused::LSTM_FUSED_ISA {

template <class T>
int64_t forward_workspace(const LayerShape& shape, int64_t input_size);
template <class T>
int64_t backward_workspace(const LayerShape& shape);
template <class T>
void forward(const CpuForwardRun<T>& run);
template <class T>
void backward(const CpuBackwardRun<T>& run);
template <class T>
int64_t direct_workspace(const LayerShape& shape, int64_t input_size);
template <class T>
void direct_forward(const CpuForwardRun<T>& run);
template <class T>
int64_t one_step_workspace(const LayerShape& shape, int64_t input_size);
template <class T>
void one_step_forward(const CpuForwardRun<T>& run);
template <class T>
int64_t product_workspace(const ProductParams<T>& params, int64_t num_threads);
template <class T>
void product(const ProductParams<T>& params, T* workspace, const Parallel& parallel);
template <class T>
void sum_rows(const RowSumParams<T>& params, const Parallel& parallel);
template <class T>
void widen(const WidenParams<T>& params, const Parallel& parallel);
template <class T>
void hidden(const HiddenParams<T>& params, const Parallel& parallel);
template <class T>
void activate_gates(const ActivateParams<T>& params, const Parallel& parallel);
template <class T>
void stream(const Stream& stream, int64_t seq_len, const void* x, void* y, const Parallel& parallel);
template <class T>
int64_t variant_backward_workspace(const LayerShape& shape);
template <class T>
void variant_backward(const VariantBackwardRun<T>& run);
template <class T>
void sum_products(const ProductSumParams<T>& params, const Parallel& parallel);

}  // namespace lstm_fused::LSTM_FUSED_ISA
