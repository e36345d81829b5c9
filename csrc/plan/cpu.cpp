#include <algorithm>

#include "few_rows.h"
#include "plan/planner.h"

namespace lstm_fused {
namespace {

struct Split {
  CpuPlan::Split split;
  int64_t num_tasks;
};

int64_t proj_width(const Problem& problem) { return problem.proj_size > 0 ? problem.proj_size : problem.hidden_size; }

bool is_half(const Problem& problem) { return problem.dtype == DType::kFloat16 || problem.dtype == DType::kBFloat16; }

// As computed: half types become float.
int64_t element_bytes(const Problem& problem) { return problem.dtype == DType::kFloat64 ? 8 : 4; }

// Of W_hh as packed.
int64_t weight_bytes(const Problem& problem) {
  return 4 * problem.hidden_size * proj_width(problem) * element_bytes(problem);
}

// Rows need no barrier, so they come first. Two things speak against them:
// - few rows per thread cannot hide the reading of a W_hh that fills more than half of L2, which has to hold h and the
//   input gates as well: every thread would read it whole (H = 256, B = 8, two threads: training 1.4 times faster so);
// - fewer rows than threads leave threads idle, which matters once a step is worth a barrier (about 1 us).
// Where a direction has one thread, neither holds: the threads would only wait for each other (two directions, two
// threads, T = 32, H = 256, Zen 3: of 8 rows that end early inference takes 0.85 of the time without, of one row 0.9).
Split split_layer(const Problem& problem, const CpuFacts& cpu) {
  constexpr int64_t kRowsThatHideReading = 24;
  constexpr double kFlopWorthATask = 1e5;  // 1 to 4 us on one core
  const int64_t hidden = problem.hidden_size, width = proj_width(problem);
  const int64_t num_threads = cpu.num_threads, directions = problem.num_directions, rows = problem.batch * directions;
  const double step_flop = 8.0 * static_cast<double>(problem.batch) * static_cast<double>(hidden * width);
  const bool reads_too_much = rows < kRowsThatHideReading * num_threads && 2 * weight_bytes(problem) > cpu.l2_bytes;
  const bool leaves_idle = rows < num_threads && step_flop > kFlopWorthATask;
  if (num_threads > directions && rows > 0 && (reads_too_much || leaves_idle)) {
    return {CpuPlan::kGates, std::min(num_threads, directions * ceil_div(hidden, kTileUnits))};
  }
  const double worth = step_flop * static_cast<double>(problem.seq_len * directions) / kFlopWorthATask;
  const int64_t threads = static_cast<int64_t>(std::clamp(worth, 1.0, static_cast<double>(num_threads)));
  const int64_t per_direction = std::min(problem.batch, threads / directions);
  return {CpuPlan::kRows, directions * std::max<int64_t>(1, per_direction)};
}

// A single step of rows that fill vectors has a kernel of its own, which takes a vector of rows at a time. Time of it
// over that of dot products, one thread of an AMD EPYC, H = 64 to 512, by B: AVX-512 (Zen 4), of 16 lanes, 12 1.2, 14
// 1.1, 16 1.0, 24 1.2, 28 1.0, 32 0.9, 40 1.1; AVX2 (Zen 3), of 8, 8 1.1, 10 1.2, 12 1.0 to 1.1, 14 1.0, 16 0.85, 20
// 0.95, 24 0.85, 32 0.8; float64 with AVX2, of 4, 8 0.95, 10 1.1, 12 0.95, 16 0.95; bfloat16 with AVX2, 14 1.1, 16 1.0,
// 24 0.9. Weights that no cache holds are read faster by it (H = 1024, AVX-512: 10 0.95, 16 0.74, 24 0.85).
bool fills_vectors(const Problem& problem, const CpuFacts& cpu) {
  const int64_t lanes = cpu.vector_bytes / element_bytes(problem), rows = problem.batch;
  if (cpu.vector_bytes < 64) return 2 * rows >= std::max<int64_t>(16, (is_half(problem) ? 4 : 3) * lanes);
  const int64_t vectors = ceil_div(rows, lanes);
  if (weight_bytes(problem) > 8 * cpu.l2_bytes) return 100 * rows >= 60 * vectors * lanes;
  return rows >= 8 && 100 * rows >= 85 * vectors * lanes;
}

}  // namespace

// A short row of W_ih is left to a product of panels, one chain of fused multiply-adds: a sum across lanes rounds every
// product, and of a large input whose gates come out small 1.4 times the error remains at I = 6, 1.1 at I = 16.
//
// A W_hh of a half type that no cache holds is half the bytes where it lies: one row of the batch never repays the
// packing of those (float16, T = 256, direct over packed: H = 512 0.85, H = 1024 0.77; of two rows 0.95 and 0.79).
//
// A single step has eight rows more.
//
// Pairs of bfloat16 are multiplied by panels only, which pays from fewer rows on the shorter those are, and for a
// single row of the batch as well. Direct and packed in us (T, B, H): (4, 4, 256) 253, 222; (2, 8, 512) 1163, 1266;
// (64, 1, 256) 1152, 698; (128, 1, 1024) 65000, 43000. A single step has its own kernel instead. Direct and that one, T
// = 1 (B, H): (12, 256) 156, 130; (12, 512) 516, 426; (16, 512) 677, 433; (16, 1024) 3121, 1830; (8, 256) within a
// tenth.
CpuPlan plan_cpu(const Problem& problem, const CpuFacts& cpu) {
  constexpr int64_t kLeastInputs = 16;
  const Split found = split_layer(problem, cpu);
  const int64_t bytes = element_bytes(problem), width = proj_width(problem), rows = problem.seq_len * problem.batch;
  const bool one_step = problem.seq_len == 1;
  const auto is_direct = [&] {
    if (cpu.multiplies_pairs && problem.dtype == DType::kBFloat16) {
      const int64_t few = std::min<int64_t>(one_step ? 10 : 24, 4 + width / 32);
      return rows <= (problem.batch <= 3 ? few * 2 / 3 : few);
    }
    const int64_t few = few_recurrent_rows(width, bytes, cpu.vector_bytes, cpu.l1_bytes);
    if (one_step) return rows <= few + 8 && !fills_vectors(problem, cpu);
    const bool never_repays = is_half(problem) && problem.batch <= 2 && weight_bytes(problem) > cpu.l2_bytes;
    return rows <= few || never_repays;
  };
  const CpuPlan::Kernel kernel = is_direct() ? CpuPlan::kDirect : one_step ? CpuPlan::kOneStep : CpuPlan::kPacked;
  const bool direct_w_ih =
      problem.input_size >= kLeastInputs && rows <= few_rows(problem.input_size, bytes, cpu.vector_bytes);
  return {found.split, found.num_tasks, kernel, direct_w_ih};
}

}  // namespace lstm_fused
