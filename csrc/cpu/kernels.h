// The CPU kernels: the recurrence of one layer, all directions and time steps, and the gradients of its weights. The
// input projection and its gradient are large products left to the caller.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "params.h"

namespace lstm_fused {

// How the threads share a layer. Rows: each takes some rows of the batch (of one direction) through all of time and
// never waits. Gates: each takes some hidden units of all rows and they meet after every step; W_hh is then read once,
// not once a thread.
enum class CpuSplit { kRows, kGates };

// Steps [begin, end) in a direction's own order of time. A sequence may be run in several ranges, in order and with one
// workspace: the one that begins at 0 packs the weights into it, the one that ends at T leaves h_n and c_n.
struct Steps {
  int64_t begin, end;
};

template <class T>
struct CpuKernels {
  int64_t (*forward_workspace)(const LayerShape&);  // elements for one direction, 64-byte aligned
  int64_t (*backward_workspace)(const LayerShape&);
  void (*forward)(const LayerShape&, const ForwardParams<T>* directions, int num_directions, T* workspace, Steps,
                  CpuSplit, const Parallel&);
  void (*backward)(const LayerShape&, const BackwardParams<T>* directions, int num_directions, T* workspace, CpuSplit,
                   const Parallel&);
  int64_t (*weight_gradient_workspace)(int64_t y_width, int64_t x_width, int64_t num_threads);
  void (*weight_gradient)(const WeightGradientParams<T>&, T* workspace, const Parallel&);
};

struct InstructionSet {
  const char* name;
  CpuKernels<float> float32;
  CpuKernels<double> float64;
};

// The widest instruction set that this machine has, or the one that LSTM_FUSED_CPU_ISA names if the machine has it.
const InstructionSet& instruction_set();

}  // namespace lstm_fused
