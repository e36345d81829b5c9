// What the measurements share: errors as exceptions, memory, the clock inside a kernel, and lines of JSON.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace constants {

inline void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}
#define CHECK(call) ::constants::check((call), #call)

// One line, at once: what a later measurement does cannot take it back.
inline void report(const std::string& name, double value, const char* unit, const char* question) {
  std::printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"question\": \"%s\"}\n", name.c_str(), value,
              unit, question);
  std::fflush(stdout);
}

struct Device {
  int index = 0;
  int num_sms = 0;
  int compute_capability = 0;
  double clock_ghz = 0;  // measured, under the load of the measurements
  size_t l2_bytes = 0;
};

// Device memory, zero at first.
template <class T>
class Array {
 public:
  explicit Array(size_t size) : size_(size) {
    CHECK(cudaMalloc(&data_, size * sizeof(T)));
    CHECK(cudaMemset(data_, 0, size * sizeof(T)));
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  T* data() const { return data_; }
  size_t size() const { return size_; }
  std::vector<T> host() const {
    std::vector<T> copy(size_);
    CHECK(cudaMemcpy(copy.data(), data_, size_ * sizeof(T), cudaMemcpyDefault));
    return copy;
  }
  void fill(const std::vector<T>& values) {
    CHECK(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyDefault));
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

// Seconds of GPU time that `work` puts on the default stream: the median of some runs, after one that warms up.
template <class Work>
double seconds_of(Work&& work, int runs = 5) {
  cudaEvent_t start, end;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  std::vector<float> milliseconds;
  for (int run = 0; run <= runs; ++run) {
    CHECK(cudaEventRecord(start));
    work();
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    milliseconds.push_back(0);
    CHECK(cudaEventElapsedTime(&milliseconds.back(), start, end));
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(end));
  std::sort(milliseconds.begin() + 1, milliseconds.end());
  return milliseconds[1 + runs / 2] * 1e-3;
}

// A kernel writes the cycles of each block, or of each pair of blocks; this runs it twice and takes the mean of the
// second run.
template <class Work>
double cycles_of(Array<int64_t>& cycles, Work&& work) {
  for (int run = 0; run < 2; ++run) {
    work();
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
  }
  const std::vector<int64_t> all = cycles.host();
  return static_cast<double>(std::accumulate(all.begin(), all.end(), int64_t{0})) / static_cast<double>(all.size());
}

// Ends a wait that lasts a second: a measurement that went wrong must not hang the GPU.
struct Deadline {
  int64_t end;
  __device__ Deadline() { end = clock64() + 2'000'000'000; }
  __device__ bool passed() const { return clock64() > end; }
};

// Every measurement that has a group of its own: see the file of its name.
void measure_matrix_products(const Device& device);
void measure_memory(const Device& device);
void measure_exchange(const Device& device);
void measure_clusters(const Device& device);
void measure_launches(const Device& device);

}  // namespace constants
