// csrc/kernels/start.cu on a CUDA runtime of a few lines, which counts what it is asked. Prints `name value` lines.
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/start.h"

namespace {

constexpr int kMostShared = 227 * 1024, kNumSms = 4;
std::mutex mutex;
std::map<std::pair<const void*, int>, int> allowed;  // bytes of shared memory, by function and device
std::atomic<int> attributes_set, occupancies_asked, launches, refused_launches, errors_left;
std::atomic<int> room_for_clusters{1};
thread_local int current_device = 0;

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* device) { return *device = current_device, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kMostShared
           : attribute == cudaDevAttrMultiProcessorCount        ? kNumSms
                                                                : 1;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++attributes_set;
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) allowed[{function, current_device}] = value;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t*) {
  ++occupancies_asked;
  if (room_for_clusters < 0) return ++errors_left, cudaErrorInvalidClusterSize;
  return *clusters = room_for_clusters, cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t shared_bytes) {
  ++occupancies_asked;
  return *blocks = shared_bytes > kMostShared / 2 ? 1 : 2, cudaSuccess;
}
cudaError_t cudaGetLastError() { return errors_left = 0, cudaSuccess; }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
  std::this_thread::yield();
  const std::lock_guard<std::mutex> lock(mutex);
  const size_t most = allowed.count({function, current_device}) ? allowed[{function, current_device}] : 48 * 1024;
  if (config->dynamicSmemBytes > most) return ++refused_launches, cudaErrorInvalidValue;
  return ++launches, cudaSuccess;
}
}

namespace {

int start(const void* kernel, int blocks, int64_t shared_bytes, int cluster = 1, bool together = false) {
  const int params = 0;
  return lstm_fused::start_kernel(kernel, {{blocks, 1, 1}, 32, shared_bytes, cluster, together}, nullptr, &params);
}

void print(const char* name) {
  std::printf("%s %d %d %d %d %d\n", name, attributes_set.exchange(0), occupancies_asked.exchange(0),
              launches.exchange(0), refused_launches.exchange(0), errors_left.load());
}

}  // namespace

int main() {
  const char a = 0, b = 0, c = 0, d = 0;

  // Host threads with different sizes of shared memory.
  std::vector<std::thread> threads;
  for (int n = 0; n < 4; ++n)
    threads.emplace_back([&a, n] {
      for (int i = 0; i < 1000; ++i) start(&a, 1, (50 + 40 * n) * 1024);
    });
  for (std::thread& thread : threads) thread.join();
  print("threads");

  for (int i = 0; i < 3; ++i) start(&b, 8, 0, 4);
  print("clusters");
  start(&b, 8, 1024, 4);
  start(&b, 8, 0, 2);
  print("other_shapes");
  current_device = 1;
  start(&b, 8, 0, 4);
  print("other_device");
  current_device = 0;

  for (const int room : {0, -1}) {
    room_for_clusters = room;
    const int error = start(&c, 8, room + 1, 4);
    std::printf("no_room_for_a_cluster %d\n", error);
  }
  print("no_room");

  std::printf("together %d %d\n", start(&d, 2 * kNumSms, 0, 1, true), start(&d, kNumSms, kMostShared, 1, true));
  print("room");
  std::printf("too_many %d %d\n", start(&d, 2 * kNumSms + 1, 0, 1, true), start(&d, kNumSms + 1, kMostShared, 1, true));
  print("too_many");
}
