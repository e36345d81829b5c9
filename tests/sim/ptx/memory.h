// Addresses in shared memory, as PTX has them.
#pragma once

#include "lane.h"

namespace sim::ptx {

constexpr int64_t kSharedBase = 1024;  // where a block's own begins: a null pointer points before it

// Where the address lies that is the instruction's operand, and its displacement unless another is given.
char* shared_pointer(const Lane& lane, const Instruction& i, int operand);
char* shared_pointer(const Lane& lane, const Instruction& i, int operand, int64_t displacement);
// The address in the shared memory of a block of the cluster that `own` is in this one's.
uint32_t shared_address(uint32_t own, int rank);

}  // namespace sim::ptx
