#include "operands.h"

#include <algorithm>

namespace sim::ptx {
namespace {

const std::unordered_map<std::string_view, int16_t> kSpecials = {{"%tid.x", kThreadX},
                                                                 {"%ctaid.x", kBlockX},
                                                                 {"%ctaid.y", kBlockY},
                                                                 {"%ctaid.z", kBlockZ},
                                                                 {"%ntid.x", kNumThreads},
                                                                 {"%cluster_ctarank", kClusterRank},
                                                                 {"%cluster_nctarank", kClusterSize}};

Slot mask(int width) { return width == 64 ? ~Slot{0} : (Slot{1} << width) - 1; }

}  // namespace

int16_t Operands::constant(Slot value) {
  const auto [found, is_new] = constants_.try_emplace(value, static_cast<int16_t>(-1 - constants_.size()));
  if (is_new) module_->constants.push_back(value);
  if (constants_.size() > INT16_MAX) fail("too many constants");
  return found->second;
}

const Opcode& Operands::find(const std::string& opcode) {
  const auto found = opcodes().find(opcode);
  if (found == opcodes().end()) fail("unknown instruction " + opcode);
  return found->second;
}

std::string Operands::with_shape(const std::string& opcode) {
  // Approximations that the kernels ask for by themselves are as bad as they may be.
  if (is_inline_ && opcode.find(".approx.ftz.f32") != std::string::npos) return opcode + " inline";
  const bool is_move = opcode.compare(0, 4, "mov.") == 0;
  if (!is_move && opcode != "bar.sync") return opcode;
  Tokens ahead = tokens_;
  if (!is_move) {
    ahead.take();
    return opcode + (ahead.skip(",") ? " 2" : " 1");
  }
  int parts = 1;
  const auto in_braces = [&] {
    if (!ahead.skip("{")) return false;
    for (parts = 1; !ahead.skip("}"); ahead.take()) parts += ahead.next().is(",");
    return true;
  };
  if (in_braces()) return opcode + " unpack " + std::to_string(parts);
  ahead.take();
  ahead.skip(",");
  if (in_braces()) return opcode + " pack " + std::to_string(parts);
  if (ahead.next().is("%globaltimer")) return opcode + " %globaltimer";
  return names_.find_symbol(ahead.next().text) ? opcode + " address" : opcode;
}

void Operands::parse_operands(Instruction& i, const std::string& opcode_name) {
  const std::string name = with_shape(opcode_name);
  const Opcode& opcode = find(name);
  i.work = work_of(name);
  int forms_to_write = num_written(name, opcode.forms);
  i.execute = opcode.execute;
  i.access = opcode.access;
  if (used_bytes_) i.access.used = used_bytes_;
  used_bytes_ = 0;
  int count = 0;
  bool is_first = true;
  for (const Form& form : opcode.forms) {
    if (!is_first && !tokens_.skip(",") && !tokens_.skip("|")) expect(",");
    is_first = false;
    if (form.kind == Form::Kind::kLabel) {
      branches_.emplace_back(module_->code.size(), take_word());
    } else if (form.kind == Form::Kind::kClock) {
      expect("%globaltimer");
    } else if (form.kind == Form::Kind::kAddress) {
      i.operand[count++] = parse_address(i, form.bits);
    } else if (form.count == 1) {
      i.operand[count++] = parse_value(i, form);
    } else {
      expect("{");
      for (int n = 0; n < form.count; ++n) {
        if (n > 0) expect(",");
        i.operand[count++] = parse_value(i, form);
      }
      expect("}");
    }
    if (forms_to_write-- > 0) i.num_written = static_cast<uint8_t>(count);
  }
  i.num_operands = static_cast<uint8_t>(count);
  // At a place that the compiler knows a parameter is an operand like any other.
  const int16_t last = i.operand[name[0] == 's' ? 0 : i.num_written];
  if (i.work == Work::kParameter && (last == kParamsBase || last == kFrameBase)) i.work = Work::kNothing;
}

int16_t Operands::parse_value(Instruction& i, const Form& form) {
  const Token token = take();
  const std::string text(token.text);
  if (token.kind == Token::Kind::kNumber) return constant(static_cast<Slot>(number(text)) & mask(form.bits));
  if (token.is("_") && form.may_be_nothing) return kNone;
  if (const auto special = kSpecials.find(text); special != kSpecials.end() && form.bits == 32) return special->second;
  const std::optional<Register> found = names_.find_register(text);
  if (!found) fail("no register " + text);
  // Registers have 16 bits at least.
  const bool fits = found->bits == std::max(form.bits, form.bits == 1 ? 1 : 16);
  if (!fits && !(form.may_be_wider && found->bits > form.bits))
    fail(text + " has " + std::to_string(found->bits) + " bits, not " + std::to_string(form.bits));
  i.access.register_bits = static_cast<uint8_t>(found->bits);
  return static_cast<int16_t>(found->slot);
}

// "[%rd1+4]" or "[name+-4]"; where an address is moved, "name".
int16_t Operands::parse_address(Instruction& i, int width) {
  const bool is_memory = tokens_.skip("[");
  const std::string name = take_word();
  if (is_memory) {
    if (tokens_.skip("+")) i.displacement = take_number();
    expect("]");
  }
  if (const std::optional<Symbol> symbol = names_.find_symbol(name)) {
    i.displacement += symbol->offset;
    return symbol->base;
  }
  const std::optional<Register> found = names_.find_register(name);
  if (!found) fail("no address " + name);
  if (found->bits != width) fail(name + " has " + std::to_string(found->bits) + " bits, an address here has others");
  return static_cast<int16_t>(found->slot);
}

}  // namespace sim::ptx
