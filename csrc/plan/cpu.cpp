#include <algorithm>

#include "plan/planner.h"

namespace lstm_fused {
namespace {

struct Split {
  CpuPlan::Split split;
  int64_t num_tasks;
};

int64_t proj_width(const Problem& problem) { return problem.proj_size > 0 ? problem.proj_size : problem.hidden_size; }

// Of W_hh as packed: half types become float.
int64_t weight_bytes(const Problem& problem) {
  return 4 * problem.hidden_size * proj_width(problem) * (problem.dtype == DType::kFloat64 ? 8 : 4);
}

// Rows need no barrier, so they come first. Two things speak against them:
// - few rows per thread cannot hide the reading of a W_hh that fills more than half of L2, which has to hold h and the
//   input gates as well: every thread would read it whole (H = 256, B = 8, two threads: training 1.4 times faster so);
// - fewer rows than threads leave threads idle, which matters once a step is worth a barrier (about 1 us).
Split split_layer(const Problem& problem, const CpuFacts& cpu) {
  constexpr int64_t kRowsThatHideReading = 24;
  constexpr double kFlopWorthATask = 1e5;  // 1 to 4 us on one core
  const int64_t hidden = problem.hidden_size, width = proj_width(problem);
  const int64_t num_threads = cpu.num_threads, directions = problem.num_directions, rows = problem.batch * directions;
  const double step_flop = 8.0 * static_cast<double>(problem.batch) * static_cast<double>(hidden * width);
  const bool reads_too_much = rows < kRowsThatHideReading * num_threads && 2 * weight_bytes(problem) > cpu.l2_bytes;
  const bool leaves_idle = rows < num_threads && step_flop > kFlopWorthATask;
  if (num_threads > 1 && rows > 0 && (reads_too_much || leaves_idle)) {
    return {CpuPlan::kGates, std::min(num_threads, directions * ceil_div(hidden, kTileUnits))};
  }
  const double worth = step_flop * static_cast<double>(problem.seq_len * directions) / kFlopWorthATask;
  const int64_t threads = static_cast<int64_t>(std::clamp(worth, 1.0, static_cast<double>(num_threads)));
  const int64_t per_direction = std::min(problem.batch, threads / directions);
  return {CpuPlan::kRows, directions * std::max<int64_t>(1, per_direction)};
}

}  // namespace

// Packing a weight costs about as much as some dozens of rows lose where it is not packed. Fewer where rows of W_hh are
// short: a sum across the lanes of a vector follows every dot product; fewer, too, in batches of few rows, which read
// packed weights as fast as memory gives them (forward.cpp, kWideBlocks). A W_hh that no cache holds is read so either
// way, and a half type is half the bytes where it lies: one row of the batch never repays the packing of those.
// Measured on AVX-512, one thread, (T, B, H): packed and direct in us (4, 4, 64) 59, 59; (8, 4, 64) 81, 88; (4, 8, 256)
// 663, 550. Of the recurrence alone: (8, 1, 64) 16, 16; (32, 1, 64) 44, 63; (12, 3, 64) 36, 61; (16, 1, 128) 101, 104;
// (16, 2, 128) 128, 156; (16, 1, 256) 500, 407; (32, 1, 256) 838, 841; (64, 1, 256) 1492, 1761; (16, 2, 256) 595, 595;
// (64, 1, 512) 12122, 11495; (32, 3, 512) 7278, 8615; (64, 1, 1024) 65658, 57860.
//
// A single step of more rows than few has a kernel of its own, whose product is in whole vectors of rows. Dot products
// and it, T = 1, in us (B, H): (16, 256) 390, 405; (24, 256) 606, 584; (64, 256) 1502, 1048; (16, 1024) 7623, 6929.
//
// A short row of W_ih is left to a product of panels, one chain of fused multiply-adds: a sum across lanes rounds every
// product, and of a large input whose gates come out small 1.4 times the error remains at I = 6, 1.1 at I = 16.
//
// Pairs of bfloat16 are multiplied by panels only, which pays from fewer rows on the shorter those are, and for a
// single row of the batch as well. Direct and packed in us (T, B, H): (1, 8, 64) 51, 49; (1, 16, 128) 98, 84; (1, 12,
// 256) 183, 190; (4, 4, 256) 253, 222; (2, 8, 512) 1163, 1266; (64, 1, 256) 1152, 698; (128, 1, 1024) 65000, 43000. A
// single step then has its own kernel. Packed and that one, T = 1 (B, H): (20, 64) 32, 35; (16, 128) 62, 50; (16, 256)
// 204, 132; (24, 512) 962, 733.
CpuPlan plan_cpu(const Problem& problem, const CpuFacts& cpu) {
  constexpr int64_t kWide = 128, kFewRows = 24, kFewRowsIfWide = 48, kSmallBatch = 3, kLeastInputs = 16;
  const Split found = split_layer(problem, cpu);
  const int64_t width = proj_width(problem), rows = problem.seq_len * problem.batch;
  const bool wide = width >= kWide, is_half = problem.dtype == DType::kFloat16 || problem.dtype == DType::kBFloat16;
  const bool pairs = cpu.multiplies_pairs && problem.dtype == DType::kBFloat16;
  int64_t few_rows = pairs ? std::min(kFewRows, 4 + width / 32) : wide ? kFewRowsIfWide : kFewRows;
  if (problem.batch <= kSmallBatch) few_rows = few_rows * 2 / 3;
  const bool one_step = problem.seq_len == 1 && rows > (pairs ? few_rows : kFewRows);
  const bool never_repays = !pairs && wide && problem.batch == 1 && (is_half || weight_bytes(problem) > cpu.l2_bytes);
  return {found.split, found.num_tasks, one_step, !one_step && (rows <= few_rows || never_repays),
          rows <= kFewRows && problem.input_size >= kLeastInputs};
}

}  // namespace lstm_fused
