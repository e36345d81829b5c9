#include "busy.h"

#include <algorithm>

namespace sim::ptx {
namespace {

constexpr int kBanks = 32, kWordBytes = 4, kSectorBytes = 32;

// Different values, by a few bits of them.
class Distinct {
 public:
  void add(uint64_t value, int key) {
    uint64_t* const of_key = values_[key];
    uint8_t& count = counts_[key];
    if (std::find(of_key, of_key + count, value) == of_key + count) of_key[count++] = value;
  }
  int most() const { return *std::max_element(counts_, counts_ + kBanks); }

 private:
  uint8_t counts_[kBanks] = {};
  uint64_t values_[kBanks][4 * kWarpSize];
};

}  // namespace

int busy_cycles(const Instruction& i, Lane* const* lanes, uint32_t active) {
  const Cost& cost = costs[static_cast<int>(i.work)];
  const bool in_shared = i.work == Work::kSharedLoad || i.work == Work::kSharedStore || i.work == Work::kRemoteStore;
  const bool in_global = i.work == Work::kGlobalLoad || i.work == Work::kGlobalStore;
  if (!in_shared && !in_global) return cost.busy;
  // The address is behind what is loaded, before what is stored.
  const bool loads = i.work == Work::kSharedLoad || i.work == Work::kGlobalLoad;
  const int operand = loads ? i.access.count : 0, bytes = i.access.bytes * i.access.count;
  const auto address = [&](int lane) {
    return lanes[lane]->slots[i.operand[operand]] + static_cast<uint64_t>(i.displacement);
  };
  int cycles = 0;
  if (in_global) {
    Distinct sectors;
    for (; active; active &= active - 1) sectors.add(address(__builtin_ctz(active)) / kSectorBytes, 0);
    return sectors.most();
  }
  const int at_once = kWarpSize * kWordBytes / std::max(bytes, kWordBytes);
  for (int first = 0; first < kWarpSize; first += at_once) {
    Distinct words;
    for (int n = first; n < first + at_once; ++n) {
      if (!(active >> n & 1)) continue;
      for (int at = 0; at < bytes; at += kWordBytes) {
        const uint64_t word = (address(n) + at) / kWordBytes;
        words.add(word, word % kBanks);
      }
    }
    cycles += words.most();
  }
  return cycles;
}

}  // namespace sim::ptx
