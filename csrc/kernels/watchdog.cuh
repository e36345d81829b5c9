// Ends a wait of more than some seconds, in builds with LSTM_FUSED_WATCHDOG: a message and an error of the launch,
// where others would wait for ever. In others it is nothing.
#pragma once

#include "kernels/primitives.cuh"

namespace lstm_fused {

class Watchdog {
 public:
  // Between two looks at what is waited for; `wait` is the name of the primitive that waits.
  LSTM_FUSED_DEVICE void look([[maybe_unused]] const char* wait) const {
#ifdef LSTM_FUSED_WATCHDOG
    constexpr uint64_t kMostNanoseconds = 5000000000;  // no layer takes as long for a step
    if (nanoseconds() - began_ > kMostNanoseconds) give_up(wait);
#endif
  }

#ifdef LSTM_FUSED_WATCHDOG
 private:
  uint64_t began_ = nanoseconds();
#endif
};

}  // namespace lstm_fused
