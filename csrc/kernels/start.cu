// Host code only.
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <tuple>

#include "kernels/start.h"

namespace lstm_fused {
namespace {

static_assert(kTooManyBlocks == cudaErrorCooperativeLaunchTooLarge);

struct Config {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};

  Config(const Grid& grid, void* stream) {
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks.x), static_cast<unsigned>(grid.blocks.y),
                          static_cast<unsigned>(grid.blocks.z));
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    if (grid.cluster > 1) {
      cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = static_cast<unsigned>(grid.cluster);
      cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    }
    if (grid.together) {
      cudaLaunchAttribute& cooperative = attributes[config.numAttrs++];
      cooperative.id = cudaLaunchAttributeCooperative;
      cooperative.val.cooperative = 1;
    }
  }
  Config(const Config&) = delete;
};

// Lets the kernel have all the shared memory that a block of the device may ask for, and clusters of any size. Both
// belong to function and device and can be taken back, so nobody may set what just his own launch needs.
cudaError_t allow_everything(const void* kernel, int device) {
  int most = 0, has_clusters = 0;
  cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&has_clusters, cudaDevAttrClusterLaunch, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  if (error == cudaSuccess && has_clusters)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  return error;
}

// Whether a cluster, or all blocks of a grid that run together, have room on the device: also a part of a GPU may be
// large enough, but not side by side.
cudaError_t find_room(const void* kernel, const Grid& grid, const Config& config, int device, int64_t* blocks) {
  int count = 0;
  if (grid.cluster > 1) {
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&count, kernel, &config.config);
    if (error != cudaSuccess) cudaGetLastError();  // it is one way to say that there is none
    *blocks = error == cudaSuccess ? int64_t{count} * grid.cluster : 0;
    return cudaSuccess;
  }
  int num_sms = 0;
  cudaError_t error = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess)
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel, grid.threads, config.config.dynamicSmemBytes);
  *blocks = int64_t{num_sms} * count;
  return error;
}

// What the runtime was asked and told, once for each function and device, and each shape of a block.
class Known {
 public:
  cudaError_t allow(const void* kernel, int device) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bool& done = allowed_[{kernel, device}];
    if (done) return cudaSuccess;
    const cudaError_t error = allow_everything(kernel, device);
    done = error == cudaSuccess;
    return error;
  }
  // Call allow() before.
  cudaError_t room(const void* kernel, int device, const Grid& grid, const Config& config, int64_t* blocks) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Shape shape{kernel, device, grid.threads, grid.shared_bytes, grid.cluster};
    if (const auto found = rooms_.find(shape); found != rooms_.end()) {
      *blocks = found->second;
      return cudaSuccess;
    }
    const cudaError_t error = find_room(kernel, grid, config, device, blocks);
    if (error == cudaSuccess) rooms_[shape] = *blocks;
    return error;
  }

 private:
  using Shape = std::tuple<const void*, int, int, int64_t, int>;
  std::mutex mutex_;
  std::map<std::pair<const void*, int>, bool> allowed_;
  std::map<Shape, int64_t> rooms_;  // in blocks
};

}  // namespace

int start_kernel(const void* kernel, const Grid& grid, void* stream, const void* params) {
  static Known& known = *new Known;  // launches may come while the process ends
  const Config config(grid, stream);
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = known.allow(kernel, device);
  if (error == cudaSuccess && (grid.cluster > 1 || grid.together)) {
    const int64_t wanted = grid.together ? int64_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z : grid.cluster;
    int64_t room = 0;
    error = known.room(kernel, device, grid, config, &room);
    if (error == cudaSuccess && room < wanted) return kTooManyBlocks;
  }
  if (error != cudaSuccess) return error;
  void* arguments[] = {const_cast<void*>(params)};
  error = cudaLaunchKernelExC(&config.config, kernel, arguments);
  if (error == cudaErrorCooperativeLaunchTooLarge) cudaGetLastError();  // the caller's to handle, nobody else's
  return error;
}

}  // namespace lstm_fused
