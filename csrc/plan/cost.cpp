#include "plan/cost.h"

#include <algorithm>
#include <cmath>

namespace lstm_fused {
namespace {

// Floating-point operations per clock of one SM (a multiply-add is two), from the vendor's throughput tables.
struct Rates {
  int64_t compute_capability;
  double gemm16;  // 16-bit matrix products as a GEMM library runs them
  double mma16;   // mma.sync with float accumulation; TF32 runs at half of either
  double fp32;
  double fp64;
};

constexpr Rates kRates[] = {
    {0, 512, 512, 128, 4},        // anything older than 8.0
    {80, 2048, 2048, 128, 128},   //
    {86, 512, 512, 256, 4},       // 8.6 and 8.9, GeForce
    {90, 4096, 2048, 256, 256},   // wgmma is about twice as fast as mma.sync
    {100, 8192, 2048, 256, 128},  // tcgen05 likewise
    {120, 512, 512, 256, 4},
};

constexpr double kMmaShare = 0.64;            // of the mma.sync rate, with N = 8 and operand B from shared memory
constexpr double kGemmShare = 0.65;           // of the peak, at the few rows of one step
constexpr double kL2BytesPerClock = 24;       // per SM
constexpr double kSharedBytesPerClock = 128;  // per SM
constexpr double kLaunchUs = 2.0;             // start of a kernel that waits for the one before it
constexpr double kExchangeUs[] = {0, 0.1, 0.2, 0.4};  // h from all blocks to all blocks, by kind: block, cluster, group

const Rates& rates_of(const DeviceInfo& device) {
  const Rates* found = kRates;
  for (const Rates& rates : kRates) {
    if (rates.compute_capability <= device.compute_capability) found = &rates;
  }
  return *found;
}

double flop_per_clock(const Problem& problem, double rate16, const Rates& rates) {
  if (problem.dtype == DType::kFloat64) return rates.fp64;
  if (problem.dtype == DType::kFloat32) return problem.allow_tf32 ? rate16 / 2 : rates.fp32;
  return rate16;
}

// Two launches per direction: a GEMM by torch and the fused gates; a projection adds a second GEMM.
double step_us(const Problem& problem, const DeviceInfo& device) {
  const double hidden = static_cast<double>(problem.hidden_size), proj = static_cast<double>(problem.proj_size);
  const double batch = static_cast<double>(problem.batch), clocks_per_us = static_cast<double>(device.clock_mhz);
  const double weights = 4 * hidden * (proj > 0 ? proj : hidden) + hidden * proj;
  const double sm_clocks_per_us = static_cast<double>(device.num_sms) * clocks_per_us;
  const Rates& rates = rates_of(device);
  const double math_us =
      2 * batch * weights / (sm_clocks_per_us * kGemmShare * flop_per_clock(problem, rates.gemm16, rates));
  const double bytes = weights * static_cast<double>(element_bytes(problem.dtype));
  const bool in_l2 = bytes <= static_cast<double>(device.l2_bytes);
  const double bytes_per_us =
      in_l2 ? sm_clocks_per_us * kL2BytesPerClock : 1e3 * static_cast<double>(device.memory_gb_per_s);
  const double launches = proj > 0 ? 3 : 2;
  return static_cast<double>(problem.num_directions) * (launches * kLaunchUs + std::max(math_us, bytes / bytes_per_us));
}

}  // namespace

double cuda_us_per_step(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  if (launch.kind == KernelKind::kStep) return step_us(problem, device);
  const int64_t hidden = problem.hidden_size, units = launch.units_per_block, rows = launch.rows_per_group;
  const double clocks_per_us = static_cast<double>(device.clock_mhz);
  const Rates& rates = rates_of(device);
  const double flop = 8.0 * static_cast<double>(units * round_up(hidden, kTileK) * rows);
  const double math_us = flop / (kMmaShare * flop_per_clock(problem, rates.mma16, rates) * clocks_per_us);
  // What the registers do not hold is read from shared memory once per tile of rows, while the tensor cores work.
  const int64_t spilled =
      weight_bytes(problem.dtype, units, hidden) - register_weight_bytes(problem.dtype, units, hidden);
  const double shared_us = static_cast<double>(spilled * (rows / kTileRows)) / (kSharedBytesPerClock * clocks_per_us);
  const int64_t resident = std::max<int64_t>(1, device.num_sms / launch.blocks_per_group);
  const double waves = static_cast<double>(ceil_div(launch.num_groups, resident));
  return waves * (kExchangeUs[static_cast<int>(launch.kind)] + std::max(math_us, shared_us));
}

double cpu_us_per_step(const Problem& problem, const DeviceInfo& device, int64_t num_tasks, bool barrier) {
  constexpr double kFlopPerUsAndVectorByte = 1600;  // 100 GFLOP/s per thread with 64-byte vectors, float32
  constexpr double kMemoryBytesPerUs = 36e3;        // W_hh from beyond L2, all threads together
  constexpr double kBarrierUs = 1.0;
  const double compute_bytes = problem.dtype == DType::kFloat64 ? 8 : 4;
  const double hidden = static_cast<double>(problem.hidden_size), proj = static_cast<double>(problem.proj_size);
  const double weights = 4 * hidden * (proj > 0 ? proj : hidden) + hidden * proj;
  const double rows = static_cast<double>(problem.batch * problem.num_directions);
  const double tasks = static_cast<double>(num_tasks);
  const double rate = kFlopPerUsAndVectorByte * static_cast<double>(device.vector_bytes) * 4 / compute_bytes;
  double us = 2 * rows * weights / (tasks * rate);
  const double bytes = weights * compute_bytes * (barrier ? static_cast<double>(problem.num_directions) : tasks);
  const double held = barrier ? bytes / tasks : weights * compute_bytes;
  if (held > static_cast<double>(device.l2_bytes)) us = std::max(us, bytes / kMemoryBytesPerUs);
  return us + (barrier ? kBarrierUs : 0);
}

}  // namespace lstm_fused
