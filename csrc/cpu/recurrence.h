// The recurrence of one layer on the CPU, all directions and time steps: everything but the input projection and the
// weight gradients, which are large products left to the caller.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "params.h"

namespace lstm_fused {

// How the threads share a layer. Rows: each takes some rows of the batch (of one direction) through all of time and never
// waits. Gates: each takes some hidden units of all rows and they meet after every step; W_hh is then read once, not
// once a thread.
enum class CpuSplit { kRows, kGates };

template <class T>
struct RecurrenceKernels {
  int64_t (*forward_workspace)(const LayerShape&);  // elements for one direction, 64-byte aligned
  int64_t (*backward_workspace)(const LayerShape&);
  void (*forward)(const LayerShape&, const ForwardParams<T>* directions, int num_directions, T* workspace, CpuSplit,
                  const Parallel&);
  void (*backward)(const LayerShape&, const BackwardParams<T>* directions, int num_directions, T* workspace, CpuSplit,
                   const Parallel&);
};

struct InstructionSet {
  const char* name;
  RecurrenceKernels<float> float32;
  RecurrenceKernels<double> float64;
};

// The widest instruction set that this machine has, or the one that LSTM_FUSED_CPU_ISA names if the machine has it.
const InstructionSet& instruction_set();

}  // namespace lstm_fused
