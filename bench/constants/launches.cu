// What a kernel costs that does nothing: T of them are the floor of `step`.
#include <chrono>

#include "report.cuh"

namespace constants {
namespace {

constexpr int kLaunches = 500;

__global__ void empty_kernel() {}

// Lets the next kernel start early, and waits for the one before.
__global__ void early_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}

void launch_many(cudaStream_t stream, int blocks, bool early) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(256);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  for (int n = 0; n < kLaunches; ++n) CHECK(cudaLaunchKernelEx(&config, early ? early_kernel : empty_kernel));
}

double host_microseconds(int blocks) {
  using Clock = std::chrono::steady_clock;
  launch_many(nullptr, blocks, false);
  CHECK(cudaDeviceSynchronize());
  const auto start = Clock::now();
  launch_many(nullptr, blocks, false);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  CHECK(cudaDeviceSynchronize());
  return seconds * 1e6 / kLaunches;
}

double graph_microseconds(int blocks, bool early) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  launch_many(stream, blocks, early);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  const double seconds = seconds_of([&] { CHECK(cudaGraphLaunch(executable, nullptr)); });
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  return seconds * 1e6 / kLaunches;
}

}  // namespace

void measure_launches(const Device& device) {
  const int blocks = device.num_sms;
  const char* question = "floor of a step of step";
  report("kernel launch, time of the host", host_microseconds(blocks), "us", question);
  report("kernel after kernel in a stream", seconds_of([&] { launch_many(nullptr, blocks, false); }) * 1e6 / kLaunches,
         "us", question);
  report("kernel after kernel in a graph", graph_microseconds(blocks, false), "us", question);
  if (device.compute_capability < 90) return;
  report("kernel after kernel in a stream, started early",
         seconds_of([&] { launch_many(nullptr, blocks, true); }) * 1e6 / kLaunches, "us", question);
  report("kernel after kernel in a graph, started early", graph_microseconds(blocks, true), "us", question);
}

}  // namespace constants
