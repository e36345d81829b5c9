#include "cpu/isa/kernels.h"

#define LSTM_FUSED_STRINGIFY(name) #name
#define LSTM_FUSED_NAME(name) LSTM_FUSED_STRINGIFY(name)

namespace lstm_fused::LSTM_FUSED_ISA {

extern const InstructionSet kInstructionSet;
const InstructionSet kInstructionSet = {
    LSTM_FUSED_NAME(LSTM_FUSED_ISA),
    {forward_workspace<float>, backward_workspace<float>, forward<float>, backward<float>},
    {forward_workspace<double>, backward_workspace<double>, forward<double>, backward<double>},
};

}  // namespace lstm_fused::LSTM_FUSED_ISA
