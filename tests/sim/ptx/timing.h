// The time that a launch takes by the table of costs.h, on SMs that are not there: it is executed in the order of that
// time, not at random.
//
// A warp's lanes that are at the same instruction, the first of all in the program, execute it together. It is issued
// when its operands are ready and a slot of the warp's scheduler, and its pipe, are free. In straight-line code that
// may be before instructions that stand before it, as ptxas would have it; but for what others may see (see
// keeps_order), which comes after all that is before it, before all that is behind it, and in the order of time among
// all warps. What is waited for passes its time on to those who waited.
#pragma once

#include <array>
#include <memory>
#include <queue>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "calendar.h"
#include "lane.h"
#include "sim/pace.h"
#include "sim/sim.h"

namespace sim::ptx {

// A time, and what the longest chain that leads to it consists of.
struct Moment {
  Cycle at = 0;
  std::array<int32_t, kNumParts> parts{};
};
Moment later(const Moment& a, const Moment& b);
Moment plus(Moment moment, Part part, int cycles);

class Timing : public Pace {
 public:
  Timing();
  ~Timing() override;

  // By the calling lane once it has started, and behind each instruction: returns when it is to execute the next one;
  // false: it has come to its end. Most instructions are executed meanwhile, by whoever looks for what is next.
  bool take_turn(Lane& lane);

  void ready(Thread& thread, Delay delay) override;
  void later(Delay delay, std::function<void()> event) override;
  Thread* next() override;
  bool idle() const override;

 private:
  static constexpr int kSchedulers = 4;
  struct Scheduler {
    Calendar slots, pipes[kNumPipes];
  };
  struct Sm {
    Scheduler schedulers[kSchedulers];
    Calendar shared, l2;
  };
  struct TimedWarp {
    int number = 0;
    Thread* threads = nullptr;
    Lane* lanes[kWarpSize] = {};
    uint32_t resumed = 0;  // lanes that are to finish an instruction
    uint32_t waiting = 0;  // for their turn
    uint32_t group = 0;    // that are to execute an instruction now
    // What the group of lanes is that comes next, those of them whose guard holds, when their operands are ready, and
    // for how long they hold its pipe. No instruction: not known.
    struct Next {
      const Instruction* instruction = nullptr;
      uint32_t group = 0, active = 0;
      Moment from;
      int busy = 0;
    } next;
    Moment order;   // nothing is issued before
    Moment issued;  // the last of all that has been
    std::vector<Moment> registers;
    std::vector<Moment> copies;  // when closed groups of them will have been made
    Moment open_copies;
  };
  struct Event {
    Moment at;
    std::function<void()> happens;
  };
  struct Turn {
    Cycle at;
    Cycle wanted;    // of two at the same time, who has waited longer comes first
    int64_t number;  // of a warp; of an event, which comes before warps of the same time, below zero
    bool operator<(const Turn& other) const {
      return std::tie(other.at, other.wanted, other.number) < std::tie(at, wanted, number);
    }
  };

  TimedWarp& warp_of(const Thread& thread);
  void look_ahead(TimedWarp& warp);
  bool issue(TimedWarp& warp);
  void execute(TimedWarp& warp);
  Scheduler& scheduler_of(const TimedWarp& warp);
  Calendar& pipe_of(const TimedWarp& warp);
  Cycle find_slot(TimedWarp& warp);
  void account(TimedWarp& warp, const Moment& at);

  Cycle now_ = 0;
  Moment seen_;  // of what others see that is happening now
  std::priority_queue<Turn> queue_;
  TimedWarp* current_ = nullptr;
  std::unordered_map<int64_t, Event> events_;  // by number
  int64_t next_event_ = -(int64_t{1} << 40);
  Moment end_;
  std::vector<TimedWarp> warps_;
  std::vector<Moment> stored_;  // when all that a block has stored so far is in L2
  std::vector<Sm> sms_ = std::vector<Sm>(num_sms());
};

// Of the launch that is running; null: it is not timed.
extern Timing* timing;
// Of all timed launches since the program began.
extern Moment total_time;

}  // namespace sim::ptx
