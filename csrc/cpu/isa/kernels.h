// What forward.cpp and backward.cpp define for the instruction set they are compiled for; table.cpp collects them.
#pragma once

#include "cpu/recurrence.h"

namespace lstm_fused::LSTM_FUSED_ISA {

template <class T>
int64_t forward_workspace(const LayerShape& shape);
template <class T>
int64_t backward_workspace(const LayerShape& shape);
template <class T>
void forward(const LayerShape& shape, const ForwardParams<T>* directions, int num_directions, T* workspace,
             CpuSplit split, const Parallel& parallel);
template <class T>
void backward(const LayerShape& shape, const BackwardParams<T>* directions, int num_directions, T* workspace,
              CpuSplit split, const Parallel& parallel);

}  // namespace lstm_fused::LSTM_FUSED_ISA
