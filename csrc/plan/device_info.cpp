#include "plan/device_info.h"

#include <cstring>
#include <stdexcept>

namespace lstm_fused {
namespace {

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;

DeviceInfo make(const std::string& name, const DeviceFacts& facts) {
  DeviceInfo device;
  static_cast<DeviceFacts&>(device) = facts;
  device.name = name;
  device.is_cuda = true;
  return device;
}

}  // namespace

DeviceInfo cpu_device(const CpuFacts& facts) {
  DeviceInfo device;
  device.name = "cpu";
  device.cpu = facts;
  return device;
}

DeviceInfo cuda_device(const std::string& name, const std::vector<int64_t>& facts) {
  if (static_cast<int64_t>(facts.size()) != kNumDeviceFacts) {
    throw std::invalid_argument("facts: expected " + std::to_string(kNumDeviceFacts) + " numbers, got " +
                                std::to_string(facts.size()));
  }
  DeviceFacts numbers;
  static_assert(sizeof numbers == kNumDeviceFacts * sizeof facts[0]);
  std::memcpy(static_cast<void*>(&numbers), facts.data(), sizeof numbers);
  return make(name, numbers);
}

int64_t resident_clusters(const DeviceInfo& device, int64_t blocks) {
  if (blocks > device.max_cluster_size) return 0;
  const bool is_known = device.resident_clusters[0] > 0;
  return is_known ? device.resident_clusters[blocks - 1] : device.num_sms / blocks;
}

const std::vector<DeviceInfo>& known_devices() {
  // compute capability, SMs, shared memory per block and per SM, registers per SM, L2, cluster size, MHz, GB/s.
  // The clock is the boost clock at which the published tensor-core peak is reached.
  static const std::vector<DeviceInfo> devices = {
      make("A100", {80, 108, 163 * kKiB, 164 * kKiB, 65536, 40 * kMiB, 1, 1410, 2039}),
      make("H100", {90, 132, 227 * kKiB, 228 * kKiB, 65536, 50 * kMiB, 16, 1830, 3350}),
      make("H200", {90, 132, 227 * kKiB, 228 * kKiB, 65536, 60 * kMiB, 16, 1830, 4800}),
      make("B200", {100, 148, 227 * kKiB, 228 * kKiB, 65536, 126 * kMiB, 16, 1850, 7700}),
      make("RTX 4090", {89, 128, 99 * kKiB, 100 * kKiB, 65536, 72 * kMiB, 1, 2520, 1008}),
  };
  return devices;
}

}  // namespace lstm_fused
