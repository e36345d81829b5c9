// Who runs next where that is not drawn at random, but follows from how long everything takes: see ptx/timing.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace sim {

struct Thread;

// What takes time between what one thread does and what another one sees of it.
enum class Delay : uint8_t { kNone, kBarrier, kClusterBarrier, kPhase, kRemote };
constexpr int kNumDelays = 5;

class Pace {
 public:
  virtual ~Pace() = default;
  // The thread, which waited, may go on: that long after what is happening now.
  virtual void ready(Thread& thread, Delay delay) = 0;
  virtual void later(Delay delay, std::function<void()> event) = 0;
  virtual Thread* next() = 0;  // null: nobody can move
  virtual bool idle() const = 0;
};

// Of all later launches; null: threads run at random.
void set_pace(std::unique_ptr<Pace> (*make)());

}  // namespace sim
