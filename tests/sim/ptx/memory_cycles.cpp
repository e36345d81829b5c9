#include "memory_cycles.h"

#include <algorithm>

namespace sim::ptx {
namespace {

constexpr int kBanks = 32, kWordBytes = 4, kPieceBytes = 64;

template <class Of>
int count_distinct(std::vector<uint64_t>& values, Of&& of) {
  for (uint64_t& value : values) value = of(value);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return static_cast<int>(values.size());
}

// Of lanes that are served at once.
int shared_cycles(std::vector<uint64_t>& words) {
  count_distinct(words, [](uint64_t word) { return word; });
  int most = 0, of_bank[kBanks] = {};
  for (const uint64_t word : words) most = std::max(most, ++of_bank[word % kBanks]);
  return most;
}

}  // namespace

int memory_cycles(const Instruction& i, Lane* const* lanes, uint32_t active) {
  const Cost& cost = costs[static_cast<int>(i.work)];
  if (cost.pipe != Pipe::kMemory) return 0;
  const bool in_shared = i.work == Work::kSharedLoad || i.work == Work::kSharedStore || i.work == Work::kRemoteStore;
  const bool in_global = i.work == Work::kGlobalLoad || i.work == Work::kGlobalStore;
  if (!in_shared && !in_global) return cost.busy;
  // The address is behind what is loaded, before what is stored.
  const bool loads = i.work == Work::kSharedLoad || i.work == Work::kGlobalLoad;
  const int operand = loads ? i.access.count : 0, bytes = i.access.bytes * i.access.count;
  const int lanes_at_once = kWarpSize * kWordBytes / std::max(bytes, kWordBytes);
  std::vector<uint64_t> touched;
  int cycles = 0;
  for (int first = 0; first < kWarpSize; first += in_shared ? lanes_at_once : kWarpSize) {
    for (int n = first; n < first + (in_shared ? lanes_at_once : kWarpSize); ++n) {
      if (!(active >> n & 1)) continue;
      const uint64_t address = lanes[n]->slots[i.operand[operand]] + static_cast<uint64_t>(i.displacement);
      for (int at = 0; at < bytes; at += kWordBytes) touched.push_back((address + at) / kWordBytes);
    }
    cycles += in_shared ? shared_cycles(touched)
                        : count_distinct(touched, [](uint64_t word) { return word * kWordBytes / kPieceBytes; });
    touched.clear();
  }
  return std::max(cycles, 1);
}

}  // namespace sim::ptx
