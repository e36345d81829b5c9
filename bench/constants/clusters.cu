// What blocks of a cluster can do for each other: barriers, loads and stores in each other's shared memory.
#include "kernels/cluster_primitives.cuh"
#include "report.cuh"

namespace constants {
namespace {

using namespace lstm_fused;

constexpr int kTurns = 2000;
constexpr int kThreads = 256;

__device__ void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

__global__ void __launch_bounds__(kThreads, 1) barrier_kernel(int64_t* cycles, int*) {
  cluster_barrier();
  const int64_t start = clock64();
  for (int turn = 0; turn < kTurns; ++turn) cluster_barrier();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
}

// Thread 0 of block 1 chases through the memory of block 0.
__global__ void __launch_bounds__(kThreads, 1) load_kernel(int64_t* cycles, int* late) {
  __shared__ uint32_t next[1024];
  for (int n = threadIdx.x; n < 1024; n += kThreads) next[n] = (n * 5 + 1) % 1024;
  cluster_barrier();
  if (threadIdx.x == 0 && cluster_rank() == 1) {
    const uint32_t there = map_shared(next, 0).address;
    uint32_t at = 0;
    const int64_t start = clock64();
    for (int turn = 0; turn < kTurns; ++turn)
      LSTM_FUSED_SM90_ASM("ld.shared::cluster.u32 %0, [%1];" : "=r"(at) : "r"(there + at * 4) : "memory");
    cycles[blockIdx.x] = clock64() - start;
    if (at > 1024) *late = 1;
  }
  cluster_barrier();  // memory of a block that has ended must not be read
}

// Blocks 0 and 1 of each cluster tell each other the number of the turn, by a flag in the other's shared memory.
__global__ void __launch_bounds__(kThreads, 1) flag_kernel(int64_t* cycles, int* late) {
  __shared__ uint32_t flag;
  const int rank = cluster_rank();
  if (threadIdx.x == 0) flag = 0;
  cluster_barrier();
  if (threadIdx.x == 0 && rank < 2) {
    const uint32_t here = shared_address(&flag), there = map_shared(&flag, 1 - rank).address;
    const auto tell = [&](uint32_t turn) {
      LSTM_FUSED_SM90_ASM("st.release.cluster.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(turn) : "memory");
    };
    const Deadline deadline;
    const int64_t start = clock64();
    bool good = true;
    for (uint32_t turn = 1; turn <= kTurns && good; ++turn) {
      if (rank == 0) tell(turn);
      for (uint32_t seen = 0; seen < turn && good; good = !deadline.passed())
        LSTM_FUSED_SM90_ASM("ld.acquire.cluster.shared::cluster.u32 %0, [%1];" : "=r"(seen) : "r"(here) : "memory");
      if (rank == 1) tell(turn);
    }
    cycles[blockIdx.x] = clock64() - start;
    if (!good) *late = 1;
  }
  cluster_barrier();
}

// The same by a store that counts on an mbarrier at its destination, so that the data need no flag.
__global__ void __launch_bounds__(kThreads, 1) async_store_kernel(int64_t* cycles, int*) {
  __shared__ MBarrier barrier;
  __shared__ uint32_t data;
  const int rank = cluster_rank();
  if (threadIdx.x == 0) {
    mbarrier_init(&barrier, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect_bytes(&barrier, sizeof data);
  }
  cluster_barrier();
  if (threadIdx.x == 0 && rank < 2) {
    const RemoteShared<MBarrier> barrier_there = map_shared(&barrier, 1 - rank);
    const RemoteShared<uint32_t> data_there = map_shared(&data, 1 - rank);
    const int64_t start = clock64();
    for (int turn = 0; turn < kTurns; ++turn) {
      if (rank == 0) store_remote_async(data_there, static_cast<uint32_t>(turn), barrier_there);
      mbarrier_wait(&barrier, turn % 2);
      mbarrier_arrive_expect_bytes(&barrier, sizeof data);
      if (rank == 1) store_remote_async(data_there, static_cast<uint32_t>(turn), barrier_there);
    }
    cycles[blockIdx.x] = clock64() - start;
  }
  cluster_barrier();
}

using Kernel = void (*)(int64_t*, int*);

struct Clusters {
  cudaLaunchAttribute attribute{};
  cudaLaunchConfig_t config{};

  Clusters(Kernel kernel, int blocks, int size, size_t shared_bytes) {
    if (size > 8) CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(size);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  Clusters(const Clusters&) = delete;
};

}  // namespace

void measure_clusters(const Device& device) {
  if (device.compute_capability < 90) return;
  constexpr size_t kSharedBytes = 180 * 1024;  // one block per SM, as a block that holds weights would be
  for (int size : {2, 4, 8, 16}) {
    const std::string of_size = "clusters of " + std::to_string(size);
    Clusters widest(barrier_kernel, device.num_sms / size * size, size, kSharedBytes);
    int resident = 0;
    CHECK(cudaOccupancyMaxActiveClusters(&resident, barrier_kernel, &widest.config));
    report(of_size + " that run at once", resident, "clusters", "residency of clusters of 16");
    if (resident == 0) continue;

    const int blocks = resident * size;
    Array<int> late(1);
    const auto turn = [&](Kernel kernel, int measured_blocks) {
      Array<int64_t> cycles(blocks);
      Clusters launch(kernel, blocks, size, kSharedBytes);
      const double mean =
          cycles_of(cycles, [&] { CHECK(cudaLaunchKernelEx(&launch.config, kernel, cycles.data(), late.data())); });
      if (late.host()[0] != 0) throw std::runtime_error("a wait between blocks of a cluster did not end");
      return mean * size / measured_blocks / kTurns;  // blocks that did not take part wrote no cycles
    };
    report("barrier of " + of_size, turn(barrier_kernel, size), "cycles", "a step of cluster, by barrier");
    report("load from another block's shared memory, " + of_size, turn(load_kernel, 1), "cycles",
           "distributed shared memory latency");
    report("hop by flag in another block's shared memory, " + of_size, turn(flag_kernel, 2) / 2, "cycles",
           "distributed shared memory hop: what a step of cluster waits");
    report("hop by store that counts on an mbarrier, " + of_size, turn(async_store_kernel, 2) / 2, "cycles",
           "distributed shared memory hop: what a step of cluster waits");
  }
}

}  // namespace constants
