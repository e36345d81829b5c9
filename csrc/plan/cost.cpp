#include "plan/cost.h"

#include <algorithm>

namespace lstm_fused {
namespace {

// ---- The critical path of a step of the compiled kernels in inference, in cycles as the simulator models them for
// compute capability 9.0: found and written here by `python -m bench.costs`. Other GPUs are taken to need as many, at
// their own clock.

struct Cost {
  const char* name;
  double cycles[3];  // in 16 bit, in TF32, in float32 without tensor cores
};
// Latencies of product, cells and barrier; the instructions of each warp of a scheduler. With x given as x W_ih^T, and
// where the kernel multiplies it.
constexpr Cost kBlockStep[] = {{"block step", {176, 551, 584}}, {"block fused step", {289, 486, 537}}};
constexpr Cost kBlockWarp[] = {{"block warp", {237, 152, 783}}, {"block fused warp", {149, 196, 1089}}};
// The same, with the way to another SM; each warp of a scheduler but the first; each chunk of a warp's part of K.
constexpr Cost kClusterStep = {"cluster step", {533, 689, 641}};
constexpr Cost kClusterWarp = {"cluster warp", {262, 179, 1124}};
constexpr Cost kClusterChunk = {"cluster chunk", {57, 59, 286}};
// Forward and backward. A turn of 8 rows, or of two such tiles hand in hand: sums, cells, and what it sends to L2 and
// back. The second of those tiles. A turn on an SM that another block has turns on, more. Each chunk of a warp's part
// of K for 8 rows: loads from L2 and the product. 0: does not occur.
constexpr Cost kGroupTurn[] = {{"group turn", {830, 847, 1497}}, {"group backward turn", {956, 1079, 779}}};
constexpr Cost kGroupSecond[] = {{"group second", {217, 0, 0}}, {"group backward second", {524, 0, 0}}};
constexpr Cost kGroupShared[] = {{"group shared turn", {68, 166, 45}}, {"group backward shared turn", {268, 466, 314}}};
constexpr Cost kGroupChunk[] = {{"group chunk", {150, 149, 1303}}, {"group backward chunk", {147, 128, 592}}};
// Forward, where turns go in pairs: a turn, and each of its chunks. With lengths or resets, of which the planner does
// not know, they do not.
constexpr Cost kGroupPaired = {"group paired turn", {638, 0, 0}};
constexpr Cost kGroupPairedChunk = {"group paired chunk", {21, 0, 0}};
// Where layers run side by side: the first chunk of the product with the h of the layer below, or the grad_gates of the
// one above, part of which is done while h is on its way, and each chunk that follows; backward each beyond four waits
// for L2 by itself.
constexpr Cost kGroupStack[] = {{"group stack", {332, 361, 3478}}, {"group backward stack", {701, 635, 1100}}};
constexpr Cost kGroupStackChunk[] = {{"group stack chunk", {655, 806, 4130}},
                                     {"group backward stack chunk", {109, 131, 814}}};
constexpr Cost kGroupStackWait = {"group backward stack wait", {378, 376, 112}};
// A block per SM: rows' addresses, W_hh and h from L2, sums, cells. Each chunk of K for 8 rows. Each chunk of a warp
// but the first: it waits for L2 again.
constexpr Cost kStepWave = {"step wave", {3135, 4112, 5180}};
constexpr Cost kStepWork = {"step work", {61, 37, 159}};
constexpr Cost kStepChunk = {"step chunk", {618, 1570, 2069}};

// ---- Published rates. Where they say more than the model, which knows one block on an SM and nobody else in L2, they
// count.

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

constexpr double kMmaShare = 2.0 / 3;         // of these rates, as the model assumes
constexpr double kL2BytesPerClock = 24;       // per SM, where all of them read; assumed
constexpr double kSharedBytesPerClock = 128;  // per SM
constexpr int64_t kSchedulers = 4;            // of an SM
constexpr double kLaunchUs = 2.0;             // start of a kernel that waits for the one before it; assumed

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

template <class Count>
Part part(const Problem& problem, const Cost& cost, Count count) {
  const int column = problem.dtype != DType::kFloat32 ? 0 : problem.allow_tf32 ? 1 : 2;
  return {cost.name, cost.cycles[column], static_cast<double>(count)};
}

// ---- What a step consists of, and the cycles that it takes at least, by kind.

struct Step {
  std::vector<Part> parts;
  double least_cycles;
};

// A launch per step, two with a projection. Each block reads its rows of W_hh and of h again at every step.
Step step_of(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const int64_t hidden = problem.hidden_size, proj = problem.proj_size, width = proj > 0 ? proj : hidden;
  const int64_t tiles = std::min(launch.rows_per_group / kTileRows, group_row_tiles(problem.batch));
  const int64_t weights = 4 * hidden * width + hidden * proj, bytes = weights * element_bytes(problem.dtype);
  const double sms = static_cast<double>(device.num_sms), groups = static_cast<double>(launch.num_groups);
  const double math = 2 * groups * static_cast<double>(launch.rows_per_group * weights) /
                      (sms * kMmaShare * flop_per_clock(problem, rates_of(device)));
  const double row_bytes = static_cast<double>(bytes * kTileRows * tiles / (4 * launch.units_per_block));
  double read = groups * (static_cast<double>(bytes) + row_bytes) / (sms * kL2BytesPerClock);
  if (bytes * problem.num_directions > device.l2_bytes)
    read = std::max(read, static_cast<double>(bytes * problem.num_directions) * static_cast<double>(device.clock_mhz) /
                              (1e3 * static_cast<double>(device.memory_gb_per_s)));
  Step step = {{}, std::max(math, read)};
  if (problem.dtype == DType::kFloat64) return step;  // not modelled
  const auto add = [&](int64_t k_size, int64_t blocks) {
    const int64_t chunks = num_chunks(problem.dtype, k_size);
    const double waves = static_cast<double>(ceil_div(blocks, device.num_sms));
    step.parts.push_back(part(problem, kStepWave, waves));
    step.parts.push_back(part(problem, kStepWork, waves * static_cast<double>(chunks * tiles)));
    step.parts.push_back(
        part(problem, kStepChunk, waves * static_cast<double>(ceil_div(chunks, kThreads / kWarp) - 1)));
  };
  add(width, num_blocks(launch));
  if (proj > 0) add(hidden, launch.num_groups * ceil_div(proj, 4 * launch.units_per_block));
  return step;
}

// Products of one tile of units by the group's rows, per block.
double product_cycles(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const int64_t depth = round_up(problem.hidden_size, kTileK);
  const double flop = 8.0 * static_cast<double>(launch.units_per_block * depth * launch.rows_per_group);
  return flop / (kMmaShare * flop_per_clock(problem, rates_of(device)));
}

// Blocks that share an SM share its schedulers; what is left of a step is waiting, and goes on side by side.
Step block_of(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const BlockVariant variant = block_variant(problem.dtype, problem.hidden_size, launch.fuses_input);
  const int64_t registers =
      launch.threads_per_block * block_forward_registers(problem.dtype, problem.allow_tf32, variant);
  const int64_t fit = std::min(device.registers_per_sm / registers, device.shared_bytes_per_sm / launch.shared_bytes);
  const int64_t per_sm = std::clamp<int64_t>(ceil_div(launch.num_groups, device.num_sms), 1, std::max<int64_t>(1, fit));
  const int64_t waves = ceil_div(launch.num_groups, per_sm * device.num_sms);
  const int64_t warps = ceil_div(launch.threads_per_block, kWarp * kSchedulers);
  return {{part(problem, kBlockStep[launch.fuses_input], waves),
           part(problem, kBlockWarp[launch.fuses_input], waves * per_sm * warps)},
          static_cast<double>(waves * per_sm) * product_cycles(problem, device, launch)};
}

Step cluster_of(const Problem& problem, const DeviceInfo& device, const Launch& launch) {
  const int64_t resident = std::max<int64_t>(1, resident_clusters(device, launch.blocks_per_group));
  const int64_t waves = ceil_div(launch.num_groups, resident),
                split = cluster_split(problem.dtype, problem.hidden_size);
  const int64_t warps = ceil_div(launch.threads_per_block, kWarp * kSchedulers);
  const int64_t chunks = ceil_div(num_chunks(problem.dtype, problem.hidden_size), split);
  const bool by_fours = has_tensor_cores(problem.dtype, problem.allow_tf32);
  return {{part(problem, kClusterStep, waves), part(problem, kClusterWarp, waves * (warps - 1)),
           part(problem, kClusterChunk, waves * (by_fours ? round_up(chunks, 4) : chunks))},
          static_cast<double>(waves) * product_cycles(problem, device, launch)};
}

// What the registers do not hold is read from shared memory once per tile of rows, and h, or grad_gates of four times
// the size, from L2, while the tensor cores work. Tiles of rows are taken in turns.
// Of layers side by side the last one ends as many steps late as there are ahead.
Step group_of(const Problem& problem, const DeviceInfo& device, const Launch& launch, bool backward) {
  const bool stacked = launch.num_layers > 1;
  const GroupVariant variant = {problem.dtype, has_tensor_cores(problem.dtype, problem.allow_tf32), stacked, backward};
  const int64_t hidden = problem.hidden_size, tiles = launch.rows_per_group / kTileRows;
  const int64_t warps = launch.threads_per_block / kWarp, blocks = kGroupWarps / warps;  // blocks of an SM
  // Those hand in hand as one; of two blocks each has turns of its own, side by side with the other's.
  const bool paired = group_takes_pairs(variant, hidden, problem.batch, launch.rows_per_group, warps);
  const int64_t alone = paired ? 0 : tiles;
  const int64_t turns = blocks > 1 ? alone : ceil_div(alone, group_num_sums(problem.dtype, stacked));
  const int64_t part_chunks = group_part_chunks(problem.dtype, hidden, backward, warps), chunks = alone * part_chunks;
  const int64_t read = group_weight_bytes(variant, hidden, warps) - group_register_bytes(variant, hidden, warps);
  const double shared = static_cast<double>(blocks * tiles * read) / kSharedBytesPerClock;
  const auto products = static_cast<double>(blocks * (stacked ? 2 : 1));
  const double rows = products * static_cast<double>(launch.rows_per_group) *
                      static_cast<double>(group_row_bytes(problem.dtype, hidden, backward)) / kL2BytesPerClock;
  return {{part(problem, kGroupTurn[backward], turns), part(problem, kGroupSecond[backward], alone - turns),
           part(problem, kGroupShared[backward], blocks > 1 ? tiles : 0), part(problem, kGroupChunk[backward], chunks),
           part(problem, kGroupPaired, tiles - alone), part(problem, kGroupPairedChunk, (tiles - alone) * part_chunks),
           part(problem, kGroupStack[backward], stacked ? tiles : 0),
           part(problem, kGroupStackChunk[backward], stacked ? chunks - tiles : 0),
           part(problem, kGroupStackWait, stacked && backward ? std::max<int64_t>(chunks - 4 * tiles, 0) : 0)},
          std::max({products * product_cycles(problem, device, launch), shared, rows})};
}

Step step_by_kind(const Problem& problem, const DeviceInfo& device, const Launch& launch, bool backward) {
  if (launch.kind == KernelKind::kGroup) return group_of(problem, device, launch, backward);
  const auto of = launch.kind == KernelKind::kStep    ? step_of
                  : launch.kind == KernelKind::kBlock ? block_of
                                                      : cluster_of;
  return of(problem, device, launch);
}

// How often the launch takes a step of its own for one of a layer.
double repeats(const Problem& problem, const Launch& launch) {
  if (launch.kind != KernelKind::kGroup) return 1;
  if (launch.num_layers == 1) return static_cast<double>(problem.num_directions / launch.directions_at_once);
  const int64_t steps = ceil_div(problem.num_layers, launch.num_layers) * (problem.seq_len + launch.num_layers - 1);
  return static_cast<double>(steps) / static_cast<double>(problem.num_layers * problem.seq_len);
}

}  // namespace

std::vector<Part> cuda_step_parts(const Problem& problem, const DeviceInfo& device, const Launch& launch,
                                  bool backward) {
  return step_by_kind(problem, device, launch, backward).parts;
}

StepTime cuda_step_time(const Problem& problem, const DeviceInfo& device, const Launch& launch, bool backward) {
  const Step step = step_by_kind(problem, device, launch, backward);
  double cycles = 0;
  for (const Part& part : step.parts) cycles += part.cycles * part.count;
  const double times = repeats(problem, launch) / static_cast<double>(device.clock_mhz);
  const double launches = launch.kind != KernelKind::kStep ? 0 : problem.proj_size > 0 ? 2 : 1;
  StepTime time;
  time.launch_us = launches * kLaunchUs;
  time.is_model = cycles >= step.least_cycles;
  time.us = time.launch_us + times * std::max(cycles, step.least_cycles);
  return time;
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
