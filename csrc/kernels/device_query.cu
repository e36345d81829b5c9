// Host code only.
#include <cuda_runtime.h>

#include "kernels/device_query.h"

namespace lstm_fused {
namespace {

cudaError_t query(int device, DeviceFacts* facts) {
  int64_t major = 0, minor = 0, clock_khz = 0, memory_khz = 0, bus_bits = 0, has_clusters = 0;
  const struct {
    cudaDeviceAttr attribute;
    int64_t* value;
  } wanted[] = {
      {cudaDevAttrComputeCapabilityMajor, &major},
      {cudaDevAttrComputeCapabilityMinor, &minor},
      {cudaDevAttrClockRate, &clock_khz},
      {cudaDevAttrMemoryClockRate, &memory_khz},
      {cudaDevAttrGlobalMemoryBusWidth, &bus_bits},
      {cudaDevAttrClusterLaunch, &has_clusters},
      {cudaDevAttrMultiProcessorCount, &facts->num_sms},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &facts->shared_bytes_per_block},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &facts->shared_bytes_per_sm},
      {cudaDevAttrMaxRegistersPerMultiprocessor, &facts->registers_per_sm},
      {cudaDevAttrL2CacheSize, &facts->l2_bytes},
  };
  for (const auto& [attribute, value] : wanted) {
    int number = 0;
    if (cudaError_t error = cudaDeviceGetAttribute(&number, attribute, device)) return error;
    *value = number;
  }
  facts->compute_capability = 10 * major + minor;
  facts->clock_mhz = clock_khz / 1000;
  facts->memory_gb_per_s = 2 * memory_khz * (bus_bits / 8) / 1000000;  // two transfers per clock
  // The runtime tells the largest cluster of a compiled kernel only: 16 blocks (not portable) on 9.0 and 10.x, else 8.
  facts->max_cluster_size = !has_clusters ? 1 : major == 9 || major == 10 ? 16 : 8;
  return cudaSuccess;
}

}  // namespace

int query_device(int device, DeviceFacts* facts) { return static_cast<int>(query(device, facts)); }

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace lstm_fused
