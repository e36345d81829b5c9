// A CUDA thread that executes PTX.
#pragma once

#include <cstring>
#include <type_traits>

#include "module.h"

namespace sim::ptx {

constexpr int kMostCalls = 4;  // one within another

struct Lane {
  const Module* module;
  Slot* slots;
  int num_slots;  // from 0 on
  const Instruction* next;
  int depth = 0;
  const Instruction* called_from[kMostCalls] = {};
  int64_t version = 0;  // Machine::version() when memory was last looked at for words of others

  // What an instruction computes with. T may be narrower than the register.
  template <class T>
  T get(const Instruction& i, int16_t slot) const {
    static_assert(std::is_arithmetic_v<T>);
    const Slot from = slots[slot];
    if (from == kUnwritten) unwritten(i, slot);
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(from);
    } else {
      T value;
      std::memcpy(&value, &from, sizeof value);
      return value;
    }
  }
  template <class T>
  void put(int16_t slot, T value) {
    Slot to = 0;
    std::memcpy(&to, &value, sizeof value);
    slots[slot] = to;
  }
  int32_t integer(const Instruction& i, int operand) const { return get<int32_t>(i, i.operand[operand]); }
  char* pointer(const Instruction& i, int operand) const {
    return reinterpret_cast<char*>(get<uint64_t>(i, i.operand[operand]) + static_cast<uint64_t>(i.displacement));
  }

  // Executes the next instruction, if its guard holds.
  void step();

  [[noreturn]] void unwritten(const Instruction& i, int16_t slot) const;
};

// Instructions that threads have executed, by class, since the program began.
extern uint64_t executed[kNumClasses];

// Ends the launch: "<what> (<module>:<line>)".
[[noreturn]] void fault(const Lane& lane, const Instruction& i, const std::string& what);

// What a thread of the kernel does from its first instruction to its last. Called by a fiber of the machine.
void run_thread(const Module& module, const Function& kernel, const void* parameters);

}  // namespace sim::ptx
