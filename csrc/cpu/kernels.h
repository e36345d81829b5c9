// The CPU kernels: the recurrence of one layer, all directions and time steps, and the products before and after it.
// The input projection is such a product, or part of the recurrence.
#pragma once

#include <cstdint>

#include "cpu/run.h"
#include "cpu/stream.h"
#include "cpu/variant.h"

namespace lstm_fused {

// Weights, but not the biases, are of T or, where T is float, of a half type, which is widened as it is read.
//
// A stack of a half type computes in float and keeps no more of it than it must: `rounded` is what stays, of kept_type.
// Then `output` is h of the last two steps alone, (2, B, P), cells_time is 0, and x, if given, begins at gates_time.
// Kernels that multiply pairs do so with what is rounded: h of the step before, h_0 and x.
template <class T>
struct CpuForwardParams : ForwardParams<T, T, void> {
  struct Rounded {
    void* output;  // (T, B, P); null where T is the stack's own type
    void* gates;   // (T, B, 4H); null where they are not kept
    void* cells;   // (T, B, H), cells_stride apart; null where they are not kept
    int64_t cells_stride;
    const void* h_0;  // (B, P), for kernels that multiply pairs
    const void* x;    // (T, B, I), for those, in the place of x
  };
  Rounded rounded{};
  DType kept_type = DType::kFloat32;
  const CpuVariant<T>* variant = nullptr;  // null: the plain cell. Not for pairs, and not for `one_step`
};

template <class T>
using CpuForwardRun = CpuRun<T, CpuForwardParams<T>>;

// As BackwardParams, but of a range of steps: grad_gates, h_prev (T', B, P), the h that each step started from, hidden
// and grad_h begin at first_time. They have the step that was the last of the range before, too, of which grad_gates
// are read.
template <class T>
struct CpuBackwardParams {
  bool reverse;
  const void* w_hh;
  const void* w_hr;
  DType weight_type;
  const void* h_0;
  const void* c_0;
  const void* gates;
  DType gates_type;
  const void* cells;
  const void* output;  // (T, B, P), null: h is o tanh(c), as forward computed it
  DType kept_type;     // of states, cells, output and their gradients, but for grad_output
  const void* grad_output;
  DType grad_output_type;
  const void* grad_cells;
  int64_t grad_cells_stride;
  const void* grad_h_n;
  const void* grad_c_n;
  int64_t first_time;
  void* grad_gates;
  DType grad_gates_type;  // bfloat16 or T, as a product may have it
  T* h_prev;              // null where nobody asks
  T* hidden;
  T* grad_h;
  T* grad_h_0;  // null where nobody asks
  T* grad_c_0;
};

template <class T>
using CpuBackwardRun = CpuRun<T, CpuBackwardParams<T>>;

// to = from, widened, times factor if there is one.
template <class T>
struct WidenParams {
  int64_t count;
  const void* from;    // of `type`, as is `factor`
  const void* factor;  // null for one
  DType type;
  T* to;
};

// h = o tanh(c) of rows [begin, end) of one direction, times factor if there is one, without regard to where a row
// ends.
template <class T>
struct HiddenParams {
  int64_t begin, end, hidden_size, output_stride;
  const void* gates;   // (N, 4H), of `type`
  const void* cells;   // (N, H)
  const void* factor;  // as output; null for one
  DType type;
  T* output;  // rows `begin` to `end`, output_stride apart
};

// Gates (num_rows, 4H) of pre-activations, in place.
template <class T>
struct ActivateParams {
  int64_t num_rows, hidden_size;
  T* gates;
};

// y (width,) = the sum of x (num_rows, width) over its rows, or added to it.
template <class T>
struct RowSumParams {
  int64_t num_rows, width;
  const void* x;  // of T or, where T is float, of a half type
  DType x_type;
  T* y;
  bool adds;
};

// Packed: for many rows; W_hh is copied once into the order in which it is read. Direct: for few; it is read where it
// lies, at every step. One step: T = 1 and many rows; W_hh and W_ih are read where they lie.
template <class T>
struct CpuForward {
  // Elements for one direction, 64-byte aligned. input_size: that of the parameters.
  int64_t (*workspace)(const LayerShape&, int64_t input_size);
  void (*run)(const CpuForwardRun<T>&);
};

// Most terms of a product that is rounded to a half type as it is formed: sums of more are added up in y.
constexpr int64_t kRoundedTerms = 512;

// What a is multiplied by, and where the product comes.
struct ProductFactor {
  int64_t columns;
  const void* b;  // (terms, columns), of T or, where T is float, of a half type
  DType b_type;
  void* y;  // (rows, columns), of T or, of kRoundedTerms terms or fewer that it does not add to, of a half type
  DType y_type;
  bool adds = false;  // y += a b
};

// y = a b, of one b or two, which share the packing of a.
template <class T>
struct ProductParams {
  int64_t rows, terms;
  const void* a;                   // (rows, terms)
  DType a_type = DType::kFloat32;  // or bfloat16, which is for kernels that multiply pairs; otherwise it is of T
  bool a_transposed = false;       // or (terms, rows)
  ProductFactor factors[2];        // the second one with y = null is none
  bool b_transposed = false;       // each b is (columns, terms)
  int64_t batch = 1;               // of the terms of a gradient: those of one step

  int num_factors() const { return factors[1].y != nullptr ? 2 : 1; }
};

template <class T>
struct CpuKernels {
  CpuForward<T> packed, direct, one_step;
  // The same bits with any number of threads, as all kernels here.
  int64_t (*product_workspace)(const ProductParams<T>&, int64_t num_threads);  // elements
  void (*product)(const ProductParams<T>&, T* workspace, const Parallel&);
  void (*sum_rows)(const RowSumParams<T>&, const Parallel&);
  int64_t (*backward_workspace)(const LayerShape&);
  void (*backward)(const CpuBackwardRun<T>&);
  void (*widen)(const WidenParams<T>&, const Parallel&);
  void (*hidden)(const HiddenParams<T>&, const Parallel&);
  void (*activate_gates)(const ActivateParams<T>&, const Parallel&);
  StreamRun* stream;
  VariantKernels<T> variant;
};

// `bfloat16` are the kernels of its stacks: float32's, or such as multiply pairs of neighbouring terms in bfloat16, to
// which products and backward round what is not.
struct InstructionSet {
  const char* name;
  int64_t vector_bytes;
  int64_t tile_rows;         // that a product takes at once, at most
  bool multiplies_and_adds;  // in one instruction, with one rounding
  bool widens_halves;        // in one or two instructions
  bool multiplies_pairs;
  CpuKernels<float> float32, bfloat16;
  CpuKernels<double> float64;
};

// Weak: of a set that a build leaves out (setup.py) the address is null.
#define LSTM_FUSED_DECLARE(isa)                                                                    \
  namespace isa {                                                                                  \
  extern const InstructionSet kInstructionSet __attribute__((__weak__, __visibility__("hidden"))); \
  }
LSTM_FUSED_DECLARE(baseline)
LSTM_FUSED_DECLARE(avx2)
LSTM_FUSED_DECLARE(avx512)
LSTM_FUSED_DECLARE(avx512_bf16)
LSTM_FUSED_DECLARE(neon)
#undef LSTM_FUSED_DECLARE

// The widest instruction set that this build and this machine have; no wider than LSTM_FUSED_CPU_ISA, where it names
// one. Throws std::runtime_error where there is none.
const InstructionSet& instruction_set();

// The second-level cache of a core, in bytes; 1 MiB where the system does not say.
int64_t l2_bytes();

// Its first-level cache for data; 32 KiB where the system does not say.
int64_t l1_bytes();

// Whether it has products of bytes, for StreamWeights::kByteProducts.
bool multiplies_bytes();

}  // namespace lstm_fused
