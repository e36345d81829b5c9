// For how many cycles an instruction keeps its pipe busy.
#pragma once

#include "lane.h"

namespace sim::ptx {

// Of the lanes whose bits are set; in memory it is their addresses that decide. In shared memory 32 banks each give one
// word of 4 bytes in a cycle: to half of the lanes at a time where they want 8 bytes each, to a quarter where 16. From
// L2 come 32 bytes in a cycle.
int busy_cycles(const Instruction& i, Lane* const* lanes, uint32_t active);

}  // namespace sim::ptx
