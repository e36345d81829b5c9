// For how many cycles an instruction holds its SM's memory pipe.
#pragma once

#include "lane.h"

namespace sim::ptx {

// Of the lanes whose bits are set. In shared memory 32 banks each give one word of 4 bytes in a cycle: to half of the
// lanes at a time where they want 8 bytes each, to a quarter where 16. In global memory each piece of 64 bytes takes
// one.
int memory_cycles(const Instruction& i, Lane* const* lanes, uint32_t active);

}  // namespace sim::ptx
