// grad W = grad_y^T x over all T*B rows. A single running sum of that many terms would lose more than torch.nn.LSTM
// does, which adds up one step at a time: rows are taken in slices, each summed in registers and added to the result.
#include "cpu/isa/kernels.h"
#include "cpu/isa/rows.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

constexpr int64_t kMaxSlice = 64;  // a panel of it stays in the first-level cache while all of grad_y passes by

// About the root of the number of rows: the sums within a slice are then as long as the sum of the slices. Shorter ones
// would spend their time on the result, which each of them reads and writes.
int64_t slice_rows(int64_t num_rows) {
  int64_t slice = 16;
  while (slice * slice < num_rows && slice < kMaxSlice) slice += 8;
  return slice;
}

template <class T, int R>
__attribute__((noinline)) void tile(const WeightGradientParams<T>& p, int64_t row, int64_t rows, int64_t m,
                                    int64_t begin, bool adds, const T* panel) {
  const T* columns[R];
  for (int r = 0; r < R; ++r) columns[r] = p.grad_y + row * p.y_width + m + r;
  const Accumulators<T, R> acc = multiply<T, R>(columns, rows, panel, p.y_width);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kTileVectors; ++v) {
      const int64_t n = begin + v * kLanes<T>;
      T* const out = p.grad_w + (m + r) * p.x_width + n;
      with_lanes<T>(valid_lanes<T>(n, p.x_width), [&](auto lanes) {
        store(out, adds ? load(out, lanes.value) + acc.at[r][v] : acc.at[r][v], lanes.value);
      });
    }
}

// A task takes a block of the columns of x, and where those are fewer than the threads, a part of the rows of grad W.
struct Tasks {
  int64_t blocks, parts, part_size;

  Tasks(int64_t y_width, int64_t x_width, int64_t panel_width, int64_t num_threads)
      : blocks(num_tiles(x_width, panel_width)),
        parts(num_tiles(num_threads, blocks)),
        part_size(num_tiles(y_width, parts)) {}
};

}  // namespace

template <class T>
int64_t weight_gradient_workspace(int64_t y_width, int64_t x_width, int64_t num_threads) {
  const Tasks tasks(y_width, x_width, kPanelWidth<T>, num_threads);
  return tasks.blocks * tasks.parts * panel_size<T>(kMaxSlice);
}

template <class T>
void weight_gradient(const WeightGradientParams<T>& p, bool adds, T* workspace, const Parallel& parallel) {
  if (p.num_rows == 0) return adds ? void() : fill(p.grad_w, T(0), p.y_width * p.x_width);
  const Tasks tasks(p.y_width, p.x_width, kPanelWidth<T>, parallel.num_threads);
  const int64_t slice = slice_rows(p.num_rows);
  parallel(tasks.blocks * tasks.parts, [&](int64_t task) {
    T* const panel = workspace + task * panel_size<T>(kMaxSlice);
    const int64_t begin = task % tasks.blocks * kPanelWidth<T>;
    const int64_t m_begin = task / tasks.blocks * tasks.part_size, m_end = min(p.y_width, m_begin + tasks.part_size);
    for (int64_t row = 0; row < p.num_rows && m_begin < m_end; row += slice) {
      const int64_t rows = min(slice, p.num_rows - row);
      pack_columns(p.x + row * p.x_width, rows, p.x_width, begin, panel);
      for_row_tiles(m_end - m_begin, [&](int64_t first, auto count) {
        tile<T, count.value>(p, row, rows, m_begin + first, begin, adds || row > 0, panel);
      });
    }
  });
}

// The gradient of a bias: in slices too.
template <class T>
void sum_rows(const RowSumParams<T>& p, const Parallel& parallel) {
  const Team team{parallel, 1};
  if (p.num_rows == 0 && !p.adds) fill(p.y, T(0), p.width);
  const int64_t slice = slice_rows(p.num_rows);
  team.each(num_tiles(p.width, kLanes<T>), INT64_MAX, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = 0; row < p.num_rows; row += slice)
      for (int64_t block = begin; block < end; ++block)
        with_lanes<T>(valid_lanes<T>(block * kLanes<T>, p.width), [&](auto lanes) {
          const T* const x = p.x + block * kLanes<T>;
          T* const y = p.y + block * kLanes<T>;
          Vec<T> sum = {};
          for (int64_t n = row; n < min(p.num_rows, row + slice); ++n) sum += load(x + n * p.width, lanes.value);
          store(y, p.adds || row > 0 ? load(y, lanes.value) + sum : sum, lanes.value);
        });
  });
}

template int64_t weight_gradient_workspace<float>(int64_t, int64_t, int64_t);
template int64_t weight_gradient_workspace<double>(int64_t, int64_t, int64_t);
template void weight_gradient(const WeightGradientParams<float>&, bool, float*, const Parallel&);
template void weight_gradient(const WeightGradientParams<double>&, bool, double*, const Parallel&);
template void sum_rows(const RowSumParams<float>&, const Parallel&);
template void sum_rows(const RowSumParams<double>&, const Parallel&);

}  // namespace lstm_fused::LSTM_FUSED_ISA
