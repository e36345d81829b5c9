// The devices a plan can be made for, described by numbers: one present here, or one known by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device_facts.h"

namespace lstm_fused {

struct CpuFacts {
  int64_t num_threads = 1;
  int64_t vector_bytes = 16;      // 16 SSE2 or NEON, 32 AVX2, 64 AVX-512
  bool multiplies_pairs = false;  // of bfloat16, with AVX512-BF16
  int64_t l2_bytes = 1 << 20;     // of a core
  int64_t l1_bytes = 32 << 10;    // of a core, for data
};

struct DeviceInfo : DeviceFacts {
  std::string name;
  bool is_cuda = false;
  CpuFacts cpu;  // of a CPU, which has none of the others
};

DeviceInfo cpu_device(const CpuFacts& facts);

// `facts` in the order of DeviceFacts. Throws std::invalid_argument when their number is wrong.
DeviceInfo cuda_device(const std::string& name, const std::vector<int64_t>& facts);

// How many clusters of so many blocks, up to kMostClusterBlocks, run at once; where nobody was asked, as if clusters
// lay across the borders of GPCs.
int64_t resident_clusters(const DeviceInfo& device, int64_t blocks);

// A100, H100, H200, B200 and RTX 4090: the vendor's published figures (SXM modules, A100 with 80 GB).
const std::vector<DeviceInfo>& known_devices();

}  // namespace lstm_fused
