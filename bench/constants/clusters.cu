// What blocks of a cluster can do for each other: barriers, loads and stores in each other's shared memory.
#include "report.cuh"

namespace constants {
namespace {

constexpr int kTurns = 2000;
constexpr int kThreads = 256;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ uint32_t rank_in_cluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
// The same address in the shared memory of another block.
__device__ uint32_t in_block(uint32_t address, uint32_t rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
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
  if (threadIdx.x == 0 && rank_in_cluster() == 1) {
    const uint32_t there = in_block(shared_address(next), 0);
    uint32_t at = 0;
    const int64_t start = clock64();
    for (int turn = 0; turn < kTurns; ++turn)
      asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(at) : "r"(there + at * 4) : "memory");
    cycles[blockIdx.x] = clock64() - start;
    if (at > 1024) *late = 1;
  }
  cluster_barrier();  // memory of a block that has ended must not be read
}

// Blocks 0 and 1 of each cluster tell each other the number of the turn, by a flag in the other's shared memory.
__global__ void __launch_bounds__(kThreads, 1) flag_kernel(int64_t* cycles, int* late) {
  __shared__ uint32_t flag;
  const uint32_t rank = rank_in_cluster();
  if (threadIdx.x == 0) flag = 0;
  cluster_barrier();
  if (threadIdx.x == 0 && rank < 2) {
    const uint32_t here = shared_address(&flag), there = in_block(here, 1 - rank);
    const Deadline deadline;
    const int64_t start = clock64();
    for (uint32_t turn = 1; turn <= kTurns && *late == 0; ++turn) {
      if (rank == 0)
        asm volatile("st.release.cluster.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(turn) : "memory");
      for (uint32_t seen = 0; seen < turn;) {
        asm volatile("ld.acquire.cluster.shared::cluster.u32 %0, [%1];" : "=r"(seen) : "r"(here) : "memory");
        if (deadline.passed()) {
          *late = 1;
          break;
        }
      }
      if (rank == 1)
        asm volatile("st.release.cluster.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(turn) : "memory");
    }
    cycles[blockIdx.x] = clock64() - start;
  }
  cluster_barrier();
}

// The same by a store that counts on an mbarrier at its destination, so that the data need no flag.
__global__ void __launch_bounds__(kThreads, 1) async_store_kernel(int64_t* cycles, int* late) {
  __shared__ alignas(8) uint64_t barrier;
  __shared__ alignas(16) uint32_t data;
  const uint32_t rank = rank_in_cluster();
  const uint32_t here = shared_address(&barrier);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(here) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 4;" ::"r"(here) : "memory");
  }
  cluster_barrier();
  if (threadIdx.x == 0 && rank < 2) {
    const uint32_t barrier_there = in_block(here, 1 - rank), data_there = in_block(shared_address(&data), 1 - rank);
    const auto tell = [&](uint32_t turn) {
      asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(data_there),
                   "r"(turn), "r"(barrier_there)
                   : "memory");
    };
    const Deadline deadline;
    const int64_t start = clock64();
    for (uint32_t turn = 0; turn < kTurns && *late == 0; ++turn) {
      if (rank == 0) tell(turn);
      for (uint32_t done = 0; done == 0;) {
        asm volatile(
            "{ .reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(here), "r"(turn % 2)
            : "memory");
        if (deadline.passed()) {
          *late = 1;
          break;
        }
      }
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 4;" ::"r"(here) : "memory");
      if (rank == 1) tell(turn);
    }
    cycles[blockIdx.x] = clock64() - start;
  }
  cluster_barrier();
}

#else
__global__ void barrier_kernel(int64_t*, int*) {}
__global__ void load_kernel(int64_t*, int*) {}
__global__ void flag_kernel(int64_t*, int*) {}
__global__ void async_store_kernel(int64_t*, int*) {}
#endif

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
