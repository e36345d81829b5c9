#include "costs.h"

#include <algorithm>
#include <initializer_list>

#include "module.h"

namespace sim::ptx {

namespace {
constexpr const char* kAssumed = "assumed";
constexpr const char* kGuide = "latency assumed; rate as in the CUDA C++ Programming Guide for 9.0";
constexpr const char* kTensor = "assumed; rate: two thirds of the peak";
}  // namespace

// In the order of Work. A pipe that serves 16 lanes in a cycle is busy for two.
const Cost costs[kNumWorks] = {
    {"moves, names of registers and addresses", 0, Pipe::kNone, 0, 0, Part::kArithmetic, "ptxas makes nothing of them"},
    {"float32", 1, Pipe::kNone, 0, 4, Part::kArithmetic, kGuide},
    {"integers of 32 bits, comparisons, selections", 1, Pipe::kInteger, 2, 4, Part::kArithmetic, kGuide},
    {"integers of 64 bits", 2, Pipe::kInteger, 4, 6, Part::kArithmetic, "two of those of 32 bits"},
    {"division of integers", 20, Pipe::kInteger, 40, 100, Part::kArithmetic, kAssumed},
    {"conversions of floats", 1, Pipe::kInteger, 2, 6, Part::kArithmetic, kGuide},
    {"float64", 1, Pipe::kDouble, 2, 8, Part::kArithmetic, kGuide},
    {"ex2, rcp: approximate, ftz; tanh: approximate", 1, Pipe::kSpecial, 8, 22, Part::kSpecial, kGuide},
    {"ex2, rcp: approximate, with numbers below the normal ones", 4, Pipe::kSpecial, 8, 34, Part::kSpecial, kAssumed},
    {"rcp: rounded", 8, Pipe::kSpecial, 8, 46, Part::kSpecial, kAssumed},
    {"rcp of float64", 2, Pipe::kSpecial, 8, 30, Part::kSpecial, kAssumed},
    {"shuffle", 1, Pipe::kShared, 1, 23, Part::kSpecial, kAssumed},
    {"vote", 1, Pipe::kInteger, 2, 12, Part::kSpecial, kAssumed},
    {"mma.m16n8", 1, Pipe::kTensor, 6, 33, Part::kProduct, kTensor},
    {"parameter at a computed place", 1, Pipe::kNone, 0, 30, Part::kShared, kAssumed},
    {"load of shared memory", 1, Pipe::kShared, 1, 30, Part::kShared, kAssumed},
    {"store to shared memory", 1, Pipe::kShared, 1, 0, Part::kShared, kAssumed},
    {"load of global memory", 1, Pipe::kL2, 1, 270, Part::kGlobal, "all from L2; assumed"},
    {"store to global memory, until it is in L2", 1, Pipe::kL2, 1, 270, Part::kGlobal, "as a load"},
    {"fence, behind the block's stores", 1, Pipe::kL2, 1, 270, Part::kExchange, "as a load", true},
    {"copy from global to shared memory", 1, Pipe::kL2, 1, 300, Part::kGlobal, "a load and a store"},
    {"end of a group of copies", 1, Pipe::kNone, 0, 0, Part::kArithmetic, kAssumed},
    {"wait for copies", 1, Pipe::kNone, 0, 4, Part::kBarrier, kAssumed, true},
    {"store to another block's shared memory", 1, Pipe::kShared, 1, 0, Part::kExchange, kAssumed},
    {"arrival at a barrier", 1, Pipe::kNone, 0, 4, Part::kBarrier, kAssumed, true},
    {"barrier of a warp", 1, Pipe::kNone, 0, 8, Part::kBarrier, kAssumed, true},
    {"mbarrier: arrival, look", 1, Pipe::kShared, 1, 20, Part::kBarrier, kAssumed},
    {"branch, until the next instruction", 1, Pipe::kNone, 0, 6, Part::kSlots, kAssumed, true},
    {"nanosleep of 20 ns", 1, Pipe::kNone, 0, 35, Part::kExchange, kAssumed, true},
};

const DelayCost delays[kNumDelays] = {
    {"none", 0, Part::kBarrier, ""},
    {"barrier of a block, from the last arrival", 20, Part::kBarrier, kAssumed},
    {"barrier of a cluster, from the last arrival", 190, Part::kBarrier, kAssumed},
    {"mbarrier, from the end of a phase to who waits", 20, Part::kExchange, kAssumed},
    {"store or arrival, from block to block of a cluster", 180, Part::kExchange, kAssumed},
};

Work work_of(const std::string& opcode) {
  const std::string name = opcode.substr(0, opcode.find('.'));
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const auto has = [&](const char* part) { return opcode.find(part) != std::string::npos; };
  const bool is_double = has(".f64"), is_float = has(".f32") || has(".f16") || has(".bf16") || has(".tf32");
  if (is({"mov", "cvta"})) {  // halves of a register are no registers of their own
    return has("b32 pack") || has("b32 unpack") || has("pack 4") ? Work::kInteger : Work::kNothing;
  }
  if (is({"neg", "abs"}) && is_float) return Work::kNothing;  // a sign of an operand
  if (is({"ex2", "rcp", "sqrt"}) || (name == "div" && (is_double || is_float))) {
    if (is_double) return Work::kDoubleReciprocal;
    if (has(".rn")) return Work::kReciprocal;
    return has(".ftz") ? Work::kApproximation : Work::kFullApproximation;
  }
  if (name == "tanh") return Work::kApproximation;
  if (is({"div", "rem"})) return Work::kDivision;
  if (name == "mma") return Work::kProduct;
  if (name == "shfl") return Work::kShuffle;
  if (name == "vote") return Work::kVote;
  if (is({"ld", "st"}) && (has(".param") || has(".local"))) return Work::kParameter;
  if (name == "st" && has(".shared::cluster")) return Work::kRemoteStore;
  if (name == "ld") return has(".shared") ? Work::kSharedLoad : Work::kGlobalLoad;
  if (name == "st") return has(".shared") ? Work::kSharedStore : Work::kGlobalStore;
  if (opcode == "fence.acq_rel.gpu") return Work::kFence;
  if (name == "prefetch") return Work::kGlobalStore;
  if (opcode == "cp.async.cg.shared.global") return Work::kCopy;
  if (opcode == "cp.async.wait_group") return Work::kCopyWait;
  if (name == "cp") return Work::kCopyGroup;
  if (opcode == "bar.warp.sync") return Work::kWarpBarrier;
  if (name == "mbarrier") return Work::kPhase;
  if (is({"bar", "barrier", "fence"})) return Work::kBarrier;
  if (name == "nanosleep") return Work::kSleep;
  if (is({"bra", "call", "ret", "exit", "trap"})) return Work::kBranch;
  if (name == "cvt") return is_double ? Work::kDouble : is_float ? Work::kConversion : Work::kInteger;
  const bool compares = is({"setp", "selp", "min", "max", "copysign"});
  if (is_double) return Work::kDouble;
  if (is_float) return compares ? Work::kInteger : Work::kFloat;
  if (has(".wide") || compares || !(has("64"))) return Work::kInteger;
  return Work::kWide;
}

bool keeps_order(const Instruction& i) {
  switch (i.work) {
    case Work::kFence:
    case Work::kCopyGroup:
    case Work::kCopyWait:
    case Work::kRemoteStore:
    case Work::kBarrier:
    case Work::kWarpBarrier:
    case Work::kPhase:
    case Work::kBranch:
    case Work::kSleep:
      return true;
    case Work::kGlobalLoad:
    case Work::kGlobalStore:
      return i.access.order != Order::kWeak;
    default:
      return false;
  }
}

bool may_wait(const Instruction& i) {
  switch (i.work) {
    case Work::kProduct:
    case Work::kShuffle:
    case Work::kVote:
    case Work::kBarrier:
    case Work::kWarpBarrier:
    case Work::kPhase:
    case Work::kSleep:
      return true;
    default:
      return false;
  }
}

}  // namespace sim::ptx
