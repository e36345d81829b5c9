// Reads the operands of an instruction, as the table says that they are.
#pragma once

#include <memory>
#include <utility>

#include "names.h"
#include "opcodes.h"
#include "reader.h"

namespace sim::ptx {

class Operands : protected Reader {
 protected:
  Operands(const std::string& name, std::string_view text) : Reader(name, text) { module_->name = name; }

  const Opcode& find(const std::string& opcode);
  void parse_operands(Instruction& i, const std::string& name);
  // The slot that holds the value.
  int16_t constant(Slot value);

  std::unique_ptr<Module> module_ = std::make_unique<Module>();
  Names names_;
  std::vector<std::pair<size_t, std::string>> branches_;  // instructions and the labels that they go to
  uint16_t used_bytes_ = 0;                               // of the next load, where the compiler says so

 private:
  // The names of opcodes.h where the operands, too, decide.
  std::string with_shape(const std::string& opcode);
  int16_t parse_value(Instruction& i, const Form& form);
  int16_t parse_address(Instruction& i, int width);
  std::unordered_map<Slot, int16_t> constants_;
};

}  // namespace sim::ptx
