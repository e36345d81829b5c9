// How long instructions of PTX take where launches are timed: a table of assumptions, in cycles of an SM of an H100.
// PTX is not what the hardware executes. What ptxas makes nothing of (moves, conversions of addresses) costs nothing,
// what it makes several instructions of costs as many slots.
#pragma once

#include <cstdint>
#include <string>

#include "sim/pace.h"

namespace sim::ptx {

struct Instruction;

// What a stretch of the critical path is spent with.
enum class Part : uint8_t { kSlots, kArithmetic, kProduct, kSpecial, kShared, kGlobal, kBarrier, kExchange };
constexpr int kNumParts = 8;

// What executes instructions besides the slot in which they are issued. Each of an SM's four schedulers has one of
// each; shared memory, and the way to L2, the SM has one of.
enum class Pipe : uint8_t { kNone, kInteger, kDouble, kSpecial, kTensor, kShared, kL2 };
constexpr int kNumPipes = 7;

enum class Work : uint8_t {
  kNothing,
  kFloat,
  kInteger,
  kWide,
  kDivision,
  kConversion,
  kDouble,
  kApproximation,
  kFullApproximation,
  kReciprocal,
  kDoubleReciprocal,
  kShuffle,
  kVote,
  kProduct,
  kParameter,
  kSharedLoad,
  kSharedStore,
  kGlobalLoad,
  kGlobalStore,
  kFence,
  kCopy,
  kCopyGroup,
  kCopyWait,
  kRemoteStore,
  kBarrier,
  kWarpBarrier,
  kPhase,
  kBranch,
  kSleep,
};
constexpr int kNumWorks = 29;

struct Cost {
  const char* what;
  int slots;  // of the scheduler
  Pipe pipe;
  int busy;     // cycles of the pipe; of shared memory and L2 by the addresses, see busy.h
  int latency;  // from the issue to the result
  Part part;
  const char* source;
  bool holds_up = false;  // the thread until then
};
extern const Cost costs[kNumWorks];

struct DelayCost {
  const char* what;
  int cycles;
  Part part;
  const char* source;
};
extern const DelayCost delays[kNumDelays];

Work work_of(const std::string& opcode);
// Whether the order in which a thread executes these is its program's: ptxas moves others about in straight-line code.
bool keeps_order(const Instruction& i);
// Whether a thread may give its turn away in one of these.
bool may_wait(const Instruction& i);

}  // namespace sim::ptx
