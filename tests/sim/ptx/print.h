// printf of a kernel.
#pragma once

#include <string>

#include "lane.h"

namespace sim::ptx {

// `arguments` lie one behind the other, each aligned to its size.
void print(const Lane& lane, const Instruction& i, const char* format, const char* arguments);
// What the thread has printed last in this launch; empty: nothing.
std::string printed(const Thread& thread);
void forget_printed();

}  // namespace sim::ptx
