// The CPU kernels: the recurrence of one layer, all directions and time steps, and the products before and after it.
// The input projection is such a product, or part of the recurrence.
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

// Weights, but not the biases, are of T or, where T is float, of a half type, which is widened as it is read.
template <class T>
using CpuForwardParams = ForwardParams<T, T, void>;
template <class T>
using CpuBackwardParams = BackwardParams<T, T, void>;

// Packed: for many rows; W_hh is copied once into the order in which it is read. Direct: for few; it is read where it
// lies, at every step. One step: T = 1 and many rows; W_hh and W_ih are read where they lie.
template <class T>
struct CpuForward {
  // Elements for one direction, 64-byte aligned. input_size: that of the parameters.
  int64_t (*workspace)(const LayerShape&, int64_t input_size);
  void (*run)(const LayerShape&, const CpuForwardParams<T>* directions, int num_directions, T* workspace, Steps,
              CpuSplit, const Parallel&);
};

// y = a b, y (rows, columns).
template <class T>
struct ProductParams {
  int64_t rows, columns, terms;
  const T* a;         // (rows, terms)
  bool a_transposed;  // or (terms, rows)
  const void* b;      // (terms, columns), of T or, where T is float, of a half type
  bool b_transposed;  // or (columns, terms)
  DType b_type;
  T* y;
};

template <class T>
struct ColumnSumsParams {
  int64_t rows, columns;
  const T* x;  // (rows, columns)
  T* sums;     // (columns,)
};

template <class T>
struct CpuKernels {
  CpuForward<T> packed, direct, one_step;
  // The same bits with any number of threads, as all kernels here.
  int64_t (*product_workspace)(const ProductParams<T>&, int64_t num_threads);  // elements
  void (*product)(const ProductParams<T>&, T* workspace, const Parallel&);
  void (*column_sums)(const ColumnSumsParams<T>&, const Parallel&);
  int64_t (*backward_workspace)(const LayerShape&);
  void (*backward)(const LayerShape&, const CpuBackwardParams<T>* directions, int num_directions, T* workspace,
                   CpuSplit, const Parallel&);
};

struct InstructionSet {
  const char* name;
  bool multiplies_and_adds;  // in one instruction, with one rounding
  bool widens_halves;        // in one or two instructions
  CpuKernels<float> float32;
  CpuKernels<double> float64;
};

// The widest instruction set that this machine has, or the one that LSTM_FUSED_CPU_ISA names if the machine has it.
const InstructionSet& instruction_set();

}  // namespace lstm_fused
