#include "plan/cost.h"

#include <algorithm>
#include <cmath>

namespace lstm_fused {
namespace {

// Floating-point operations per clock of one SM (a multiply-add is two), from the vendor's throughput tables.
struct Rates {
  int64_t compute_capability;
  double mma16;  // mma.sync with float accumulation; TF32 runs at half of it
  double fp32;
  double fp64;
};

constexpr Rates kRates[] = {
    {0, 512, 128, 4},      // anything older than 8.0
    {80, 2048, 128, 128},  //
    {86, 512, 256, 4},     // 8.6 and 8.9, GeForce
    {90, 2048, 256, 256},  // wgmma would be about twice as fast
    {100, 2048, 256, 128}, {120, 512, 256, 4},
};

constexpr double kMmaShare = 0.64;            // of the mma.sync rate, with N = 8 and operand B from shared memory
constexpr double kL2BytesPerClock = 24;       // per SM
constexpr double kSharedBytesPerClock = 128;  // per SM
constexpr double kLaunchUs = 2.0;             // start of a kernel that waits for the one before it
// h to all who need it, by kind: a barrier of a block, a hop to another SM's shared memory, two trips through L2.
constexpr double kExchangeUs[] = {0, 0.1, 0.2, 0.4};

const Rates& rates_of(const DeviceInfo& device) {
  const Rates* found = kRates;
  for (const Rates& rates : kRates) {
    if (rates.compute_capability <= device.compute_capability) found = &rates;
  }
  return *found;
}

double flop_per_clock(const Problem& problem, const Rates& rates) {
  if (problem.dtype == DType::kFloat64) return rates.fp64;
  if (problem.dtype == DType::kFloat32) return problem.allow_tf32 ? rates.mma16 / 2 : rates.fp32;
  return rates.mma16;
}

// A launch per step, two with a projection. Each block reads its rows of W_hh and of h again at every step.
double step_us(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const double hidden = static_cast<double>(problem.hidden_size), proj = static_cast<double>(problem.proj_size);
  const double rows = static_cast<double>(launch.rows_per_group * launch.num_groups);
  const double weights = 4 * hidden * (proj > 0 ? proj : hidden) + hidden * proj;
  const double element = static_cast<double>(element_bytes(problem.dtype));
  const double sm_clocks_per_us = static_cast<double>(device.num_sms * device.clock_mhz);
  const double math_us =
      2 * rows * weights / (sm_clocks_per_us * kMmaShare * flop_per_clock(problem, rates_of(device)));
  const double weight_reads = weights * element * static_cast<double>(launch.num_groups);
  const double row_reads = weights * element * rows / static_cast<double>(4 * launch.units_per_block);
  double bytes_us = (weight_reads + row_reads) / (sm_clocks_per_us * kL2BytesPerClock);
  const double from_memory = weights * element * static_cast<double>(problem.num_directions);
  if (from_memory > static_cast<double>(device.l2_bytes))
    bytes_us = std::max(bytes_us, from_memory / (1e3 * static_cast<double>(device.memory_gb_per_s)));
  return (proj > 0 ? 2 : 1) * kLaunchUs + std::max(math_us, bytes_us);
}

// Products of one tile of units by the group's rows, per block.
double product_us(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const int64_t depth = round_up(problem.hidden_size, kTileK);
  const double flop = 8.0 * static_cast<double>(launch.units_per_block * depth * launch.rows_per_group);
  return flop / (kMmaShare * flop_per_clock(problem, rates_of(device)) * static_cast<double>(device.clock_mhz));
}

// Blocks that share an SM share its products; what is left of a step is waiting, and goes on side by side.
double block_us(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const BlockVariant variant = block_variant(problem.dtype, problem.hidden_size, launch.fuses_input);
  const int64_t registers =
      launch.threads_per_block * block_forward_registers(problem.dtype, problem.allow_tf32, variant);
  const int64_t fit = std::min(device.registers_per_sm / registers, device.shared_bytes_per_sm / launch.shared_bytes);
  const int64_t per_sm = std::clamp<int64_t>(ceil_div(launch.num_groups, device.num_sms), 1, std::max<int64_t>(1, fit));
  const double waves = static_cast<double>(ceil_div(launch.num_groups, per_sm * device.num_sms));
  const double exchange_us = kExchangeUs[static_cast<int>(KernelKind::kBlock)];
  return waves * (exchange_us + static_cast<double>(per_sm) * product_us(problem, device, launch));
}

double cluster_us(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const int64_t resident = std::max<int64_t>(1, resident_clusters(device, launch.blocks_per_group));
  const double waves = static_cast<double>(ceil_div(launch.num_groups, resident));
  return waves * (kExchangeUs[static_cast<int>(launch.kind)] + product_us(problem, device, launch));
}

}  // namespace

// What the registers do not hold is read from shared memory once per tile of rows, and h, or grad_gates of four times
// the size, from L2, while the tensor cores work. Tiles of rows are taken in turns, so that what is sent has the time
// of the others' products.
// Layers side by side multiply by W_ih while h is on its way; the last one ends as many steps late as there are ahead.
double group_us_per_step(const Problem& problem, const DeviceInfo& device, const Launch& launch, bool backward) {
  const bool stacked = launch.num_layers > 1;
  const GroupVariant variant = {problem.dtype, has_tensor_cores(problem.dtype, problem.allow_tf32), stacked, backward};
  const double clocks_per_us = static_cast<double>(device.clock_mhz);
  const int64_t hidden = problem.hidden_size, num_tiles = launch.rows_per_group / kTileRows;
  const int64_t read = group_weight_bytes(variant, hidden) - group_register_bytes(variant, hidden);
  const double shared_us =
      static_cast<double>(num_tiles * (stacked ? read / 2 : read)) / (kSharedBytesPerClock * clocks_per_us);
  const double rows_us = static_cast<double>(launch.rows_per_group * group_row_bytes(problem.dtype, hidden, backward)) /
                         (kL2BytesPerClock * clocks_per_us);
  const double product = std::max({product_us(problem, device, launch), shared_us, rows_us});
  const double exchange = kExchangeUs[static_cast<int>(launch.kind)];
  if (stacked) {
    const int64_t steps = ceil_div(problem.num_layers, launch.num_layers) * (problem.seq_len + launch.num_layers - 1);
    return (product + std::max(product, exchange)) * static_cast<double>(steps) /
           static_cast<double>(problem.num_layers * problem.seq_len);
  }
  return static_cast<double>(problem.num_directions / launch.directions_at_once) * (exchange + product);
}

double cuda_us_per_step(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  if (launch.kind == KernelKind::kGroup) return group_us_per_step(problem, device, launch, /*backward=*/false);
  const auto estimate = launch.kind == KernelKind::kStep    ? step_us
                        : launch.kind == KernelKind::kBlock ? block_us
                                                            : cluster_us;
  return estimate(problem, device, launch);
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
  const double rate = kFlopPerUsAndVectorByte * static_cast<double>(device.cpu.vector_bytes) * 4 / compute_bytes;
  double us = 2 * rows * weights / (tasks * rate);
  const double bytes = weights * compute_bytes * (barrier ? static_cast<double>(problem.num_directions) : tasks);
  const double held = barrier ? bytes / tasks : weights * compute_bytes;
  if (held > static_cast<double>(device.cpu.l2_bytes)) us = std::max(us, bytes / kMemoryBytesPerUs);
  return us + (barrier ? kBarrierUs : 0);
}

}  // namespace lstm_fused
