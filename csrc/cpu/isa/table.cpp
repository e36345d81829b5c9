#include "cpu/isa/kernels.h"
#include "cpu/isa/vector.h"

#define LSTM_FUSED_STRINGIFY(name) #name
#define LSTM_FUSED_NAME(name) LSTM_FUSED_STRINGIFY(name)

namespace lstm_fused::LSTM_FUSED_ISA {

#if defined(__F16C__)
constexpr bool kWidensHalves = true;
#else
constexpr bool kWidensHalves = false;
#endif

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
                                    stream<T>};

extern const InstructionSet kInstructionSet;
const InstructionSet kInstructionSet = {LSTM_FUSED_NAME(LSTM_FUSED_ISA),
                                        kVectorBytes,
                                        kMultipliesAndAdds,
                                        kWidensHalves,
                                        kKernels<float>,
                                        kKernels<double>};

}  // namespace lstm_fused::LSTM_FUSED_ISA
