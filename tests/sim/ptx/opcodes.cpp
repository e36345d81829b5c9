#include "opcodes.h"

#include <algorithm>
#include <initializer_list>

namespace sim::ptx {

const Opcodes& opcodes() {
  static const Opcodes table = [] {
    Opcodes made;
    for (const auto add :
         {add_arithmetic, add_moves, add_conversions, add_memory, add_control, add_collectives, add_clusters})
      add(made);
    return made;
  }();
  return table;
}

int num_written(const std::string& opcode, const std::vector<Form>& forms) {
  const std::string name = opcode.substr(0, opcode.find('.'));
  if (forms.empty() || forms[0].kind != Form::Kind::kValue) return 0;
  if (name == "shfl") return 2;
  return name == "bar" || name == "nanosleep" || opcode == "cp.async.wait_group" ? 0 : 1;
}

Class class_of(const std::string& opcode) {
  const std::string name = opcode.substr(0, opcode.find('.'));
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const auto has = [&](const char* part) { return opcode.find(part) != std::string::npos; };
  if (name == "mma") return Class::kMma;
  if (is({"ex2", "rcp", "tanh", "sqrt", "shfl", "vote"}) || opcode.compare(0, 5, "div.r") == 0) return Class::kSpecial;
  if (is({"bar", "barrier", "mbarrier", "fence"})) return Class::kBarrier;
  if (name == "nanosleep") return Class::kWait;
  if (is({"ld", "st", "cp", "mapa"}) && has(".shared")) return Class::kShared;
  const bool is_memory = is({"ld", "st"});
  return is_memory && !has(".param") && !has(".local") ? Class::kGlobal : Class::kOther;
}

}  // namespace sim::ptx
