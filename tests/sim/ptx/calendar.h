// Which cycles of something are taken.
#pragma once

#include <cstdint>
#include <vector>

namespace sim::ptx {

using Cycle = int64_t;

class Calendar {
 public:
  // The first cycle from `from` on that is the first of `count` free ones.
  Cycle find(Cycle from, int count) const {
    for (int run = 0; count > 0; ++from) {
      const size_t word = from / 64;
      if (word >= taken_.size()) return from - run;
      if (run == 0 && taken_[word] == ~uint64_t{0}) {
        from = from / 64 * 64 + 63;
      } else if (taken_[word] >> from % 64 & 1) {
        run = 0;
      } else if (++run >= count) {
        return from - run + 1;
      }
    }
    return from;
  }
  void take(Cycle from, int count) {
    for (const Cycle end = from + count; from < end; ++from) {
      if (static_cast<size_t>(from / 64) >= taken_.size()) taken_.resize(from / 64 * 2 + 16);
      taken_[from / 64] |= uint64_t{1} << from % 64;
    }
  }

 private:
  std::vector<uint64_t> taken_;
};

}  // namespace sim::ptx
