#include <cuda_runtime.h>

#include "kernels/device_query.h"

namespace lstm_fused {
namespace {

__global__ void nothing_kernel() {}

// Clusters of so many blocks, each with all shared memory of an SM, that run at once.
cudaError_t resident_clusters(int blocks, int64_t shared_bytes, int64_t* count) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(1);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.attrs = &cluster;
  config.numAttrs = 1;
  int clusters = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, nothing_kernel, &config);
  *count = clusters;
  return error;
}

// Of the current device, which has clusters.
cudaError_t query_clusters(DeviceFacts* facts) {
  const int64_t bytes = facts->shared_bytes_per_block;
  cudaError_t error =
      cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  for (int n = 1; error == cudaSuccess && n <= facts->max_cluster_size; ++n)
    error = resident_clusters(n, bytes, &facts->resident_clusters[n - 1]);
  return error;
}

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
  if (!has_clusters) return cudaSuccess;
  int current = 0;
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess) error = cudaSetDevice(device);
  if (error == cudaSuccess && query_clusters(facts) != cudaSuccess) {  // then they are not known
    cudaGetLastError();
    for (int64_t& clusters : facts->resident_clusters) clusters = 0;
  }
  const cudaError_t back = cudaSetDevice(current);
  return error != cudaSuccess ? error : back;
}

}  // namespace

int query_device(int device, DeviceFacts* facts) { return static_cast<int>(query(device, facts)); }

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace lstm_fused
