#include "cpu/isa/kernels.h"
#include "cpu/isa/pairs.h"

#define LSTM_FUSED_STRINGIFY(name) #name
#define LSTM_FUSED_NAME(name) LSTM_FUSED_STRINGIFY(name)

namespace lstm_fused::LSTM_FUSED_ISA {

#if defined(__F16C__) || LSTM_FUSED_NEON
constexpr bool kWidensHalves = true;
#else
constexpr bool kWidensHalves = false;
#endif

#if LSTM_FUSED_PAIRS

// Its own table is in memory before this begins: it holds nothing but constants.
const InstructionSet kInstructionSet = [] {
  InstructionSet set = avx512::kInstructionSet;
  set.name = LSTM_FUSED_NAME(LSTM_FUSED_ISA);
  set.multiplies_pairs = true;
  set.bfloat16.packed = {forward_workspace<float>, forward<float>};
  set.bfloat16.one_step = {one_step_workspace<float>, one_step_forward<float>};
  set.bfloat16.product_workspace = product_workspace<float>;
  set.bfloat16.product = product<float>;
  set.bfloat16.backward_workspace = backward_workspace<float>;
  set.bfloat16.backward = backward<float>;
  return set;
}();

#else

template <class T>
constexpr CpuKernels<T> kKernels = {{forward_workspace<T>, forward<T>},
                                    {direct_workspace<T>, direct_forward<T>},
                                    {one_step_workspace<T>, one_step_forward<T>},
                                    product_workspace<T>,
                                    product<T>,
                                    sum_rows<T>,
                                    backward_workspace<T>,
                                    backward<T>,
                                    widen<T>,
                                    hidden<T>,
                                    activate_gates<T>,
                                    stream<T>,
                                    {variant_backward_workspace<T>, variant_backward<T>, sum_products<T>}};

const InstructionSet kInstructionSet = {
    LSTM_FUSED_NAME(LSTM_FUSED_ISA), kVectorBytes,    kTileRows,       kMultipliesAndAdds, kWidensHalves,
    /*multiplies_pairs=*/false,      kKernels<float>, kKernels<float>, kKernels<double>};

#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
