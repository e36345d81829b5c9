// A small kernel that is right, and the same kernel with one fault planted.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/primitives.cuh"

namespace cases {

using namespace lstm_fused;

struct Case {
  const char* name;
  void (*run)(bool broken);  // throws sim::Fault, or std::runtime_error for a wrong result
};

extern const std::vector<Case> kBlockCases, kWarpCases, kCopyCases, kClusterCases, kMBarrierCases, kGroupCases;

template <class Params>
void run(void (*kernel)(const Params), const Grid& grid, const Params& params) {
  if (launch_kernel(kernel, grid, nullptr, params) != 0) throw std::runtime_error("launch refused");
}

template <class T>
void expect(const std::vector<T>& got, const std::vector<T>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (got.at(i) == wanted[i]) continue;
    throw std::runtime_error("wrong result at " + std::to_string(i) + ": " + std::to_string(got[i]) + ", wanted " +
                             std::to_string(wanted[i]));
  }
}

}  // namespace cases
