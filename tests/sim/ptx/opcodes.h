// What PTX instructions there are: for each opcode with all that is said behind dots, its operands and what it does.
// There are those that nvcc makes of the kernels, and their kin; any other is an error of the parser.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "module.h"

namespace sim::ptx {

struct Form {
  enum class Kind : uint8_t { kValue, kAddress, kLabel, kClock };
  Kind kind = Kind::kValue;
  int bits = 0;   // 1: a predicate
  int count = 1;  // in braces
  bool may_be_wider = false, may_be_nothing = false;
};
inline Form value(int bits) { return {Form::Kind::kValue, bits}; }
inline Form address(int bits) { return {Form::Kind::kAddress, bits}; }

struct Opcode {
  Execute execute;
  std::vector<Form> forms;
  Access access = {};
};
using Opcodes = std::unordered_map<std::string, Opcode>;

// All of them. `mov` has names of its own where it packs, unpacks, or takes an address: see add_moves.
const Opcodes& opcodes();

// How many of its forms are written, the first ones.
int num_written(const std::string& opcode, const std::vector<Form>& forms);

// By the opcode's name. Waits are what is done between two looks at a flag; the looks themselves count as such.
Class class_of(const std::string& opcode);

void add_arithmetic(Opcodes& table);
void add_moves(Opcodes& table);
void add_conversions(Opcodes& table);
void add_memory(Opcodes& table);
void add_control(Opcodes& table);
void add_collectives(Opcodes& table);
void add_clusters(Opcodes& table);

}  // namespace sim::ptx
