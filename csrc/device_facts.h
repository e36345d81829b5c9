// What a CUDA device is able to do, as plain numbers: csrc/kernels reads them from the runtime, the planner decides by
// them.
#pragma once

#include <cstdint>

namespace lstm_fused {

constexpr int64_t kMostClusterBlocks = 16;  // of any device, where a kernel asks for more than the portable 8

// int64_t alone, so that an op can return them as one list of ints, in this order.
struct DeviceFacts {
  int64_t compute_capability = 0;  // 10 * major + minor: 90 is 9.0
  int64_t num_sms = 0;
  int64_t shared_bytes_per_block = 0;  // the most a block may opt in to
  int64_t shared_bytes_per_sm = 0;
  int64_t registers_per_sm = 0;  // of 4 bytes
  int64_t l2_bytes = 0;          // CUDA: of the device; CPU: of one core
  int64_t max_cluster_size = 1;  // blocks per cluster, sizes above 8 (not portable) included
  int64_t clock_mhz = 0;         // 0, of this and the next: the driver does not tell
  int64_t memory_gb_per_s = 0;
  // CUDA: [n - 1]: clusters of n blocks, each with an SM for itself, that run at once. All 0: not known.
  int64_t resident_clusters[kMostClusterBlocks] = {};
};

constexpr int64_t kNumDeviceFacts = sizeof(DeviceFacts) / sizeof(int64_t);

}  // namespace lstm_fused
