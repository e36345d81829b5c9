#include "opcodes.h"

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

}  // namespace sim::ptx
