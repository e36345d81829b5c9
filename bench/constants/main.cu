// Measures what decides about tiles and kinds, and prints it as lines of JSON. `python -m bench.constants` builds and
// runs this.
#include "report.cuh"

namespace constants {
namespace {

__global__ void clock_kernel(int64_t* ticks) {
  const auto nanoseconds = [] {
    int64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
  };
  const int64_t start_cycle = clock64(), start = nanoseconds();
  while (nanoseconds() - start < 50'000'000) {
  }
  ticks[0] = clock64() - start_cycle;
  ticks[1] = nanoseconds() - start;
}

Device describe() {
  Device device;
  CHECK(cudaGetDevice(&device.index));
  const auto ask = [&](cudaDeviceAttr attribute) {
    int value = 0;
    CHECK(cudaDeviceGetAttribute(&value, attribute, device.index));
    return value;
  };
  device.num_sms = ask(cudaDevAttrMultiProcessorCount);
  device.compute_capability = 10 * ask(cudaDevAttrComputeCapabilityMajor) + ask(cudaDevAttrComputeCapabilityMinor);
  device.l2_bytes = static_cast<size_t>(ask(cudaDevAttrL2CacheSize));
  Array<int64_t> ticks(2);
  clock_kernel<<<1, 1>>>(ticks.data());
  CHECK(cudaGetLastError());
  const std::vector<int64_t> values = ticks.host();
  device.clock_ghz = static_cast<double>(values[0]) / static_cast<double>(values[1]);
  report("clock of an SM", device.clock_ghz, "GHz", "cycles to nanoseconds");
  return device;
}

int run() {
  using Measure = void (*)(const Device&);
  const Device device = describe();
  int failures = 0;
  for (Measure measure :
       {measure_matrix_products, measure_memory, measure_launches, measure_clusters, measure_exchange}) {
    try {
      measure(device);
    } catch (const std::runtime_error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      ++failures;
    }
  }
  return failures;
}

}  // namespace
}  // namespace constants

int main() {
  try {
    return constants::run();
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
