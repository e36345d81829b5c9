// PTX, the assembly that nvcc makes of a .cu file, as arrays of instructions that know how to execute themselves.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "costs.h"
#include "sim/machine.h"

namespace sim::ptx {

// What a register holds: its bits, those above its width zero; a predicate is 0 or 1. Every operand of an instruction
// is the index of a slot of the thread that executes it: special registers and bases of memory first, then registers.
// Constants lie before them, at negative indices.
using Slot = uint64_t;
constexpr Slot kUnwritten = 0x9e3779b97f4a7c15;  // of a register that nobody wrote: what a kernel hardly computes

enum Special : int16_t {
  kNone,  // no guard
  kThreadX,
  kBlockX,
  kBlockY,
  kBlockZ,
  kNumThreads,
  kClusterRank,
  kClusterSize,
  kParamsBase,  // of the kernel's parameters: an address of the host
  kFrameBase,   // of the thread's own memory: parameters and results of calls, and what it keeps in local memory
  kFirstRegister
};

struct Lane;
struct Instruction;
using Execute = void (*)(Lane& lane, const Instruction& instruction);

enum class Order : uint8_t { kWeak, kRelaxed };
// What an instruction reads or writes: `count` values of `bytes` bytes each.
struct Access {
  Order order = Order::kWeak;
  uint8_t bytes = 0, count = 1;
  bool is_signed = false;
  uint8_t register_bits = 0;  // may be more
  uint16_t used = 0xffff;     // of a load: its bytes that are used, where the compiler says so
};

constexpr int kMostOperands = 14;

// What an instruction is, for those who count: see executed() of kernels.h.
enum class Class : uint8_t { kMma, kShared, kGlobal, kSpecial, kBarrier, kWait, kOther };
constexpr int kNumClasses = 7;

struct Instruction {
  Execute execute;
  int16_t operand[kMostOperands];  // what is written first
  int16_t guard = kNone;           // a predicate: whether it is executed
  bool guard_negated = false;
  Class what = Class::kOther;
  Work work = Work::kNothing;
  uint8_t num_written = 0, num_operands = 0;  // the first so many of them are written, the others read
  Access access;
  int32_t line;              // of the PTX
  int32_t target = 0;        // of a branch: an index of Module::code; of a call: of Module::calls
  int64_t displacement = 0;  // of an address
  Site site;                 // where the kernel's source asks for it: not in a primitive, but where that is called
  Site wait;                 // of a look at memory by a predicate of spin_wait: where that is called
};

// Of a function, in the thread's own memory; a caller has memory for each of its own, too.
struct Parameter {
  int64_t offset, bytes;
};
struct Call {
  int function;
  std::vector<int64_t> arguments, results;  // offsets of the caller's
};

struct Function {
  std::string name;
  bool is_kernel = false, is_defined = false;
  int begin = 0, end = 0;  // in Module::code
  int num_registers = 0;
  int first_register = kFirstRegister;
  int most_threads = 0;         // of a kernel
  int64_t parameter_bytes = 0;  // of a kernel
  std::vector<Parameter> parameters, results;
};

struct Module {
  std::string name;
  std::vector<Instruction> code;
  std::vector<Function> functions;
  std::vector<Call> calls;
  std::vector<Slot> constants;  // constant n is the slot -1 - n
  int64_t frame_bytes = 0;
  std::deque<std::string> file_names, data;  // what sites point to; variables in global memory
};

// Throws Fault, which names the line.
std::unique_ptr<Module> parse(const std::string& name, const std::string& text);

}  // namespace sim::ptx
