// The products of the cell's variants: those of `step`, with what they are followed by as a function.
#pragma once

#include "kernels/cell_math.cuh"
#include "kernels/step_product.cuh"

namespace lstm_fused {

// A block's rows of the batch times rows of a matrix, for each of which a lane has matrix_row(r).
// row_of(b): what row b of the batch has for a factor, null for zeros; `any_row` is one that says how they lie.
template <class A, class MatrixRow, class RowOf, class Epilogue>
LSTM_FUSED_DEVICE void variant_product(const Element<A>* matrix, int64_t terms, MatrixRow&& matrix_row,
                                       const Element<A>* any_row, int64_t batch, RowOf&& row_of, Epilogue&& epilogue) {
  using T = Element<A>;
  const int64_t first_row = int64_t{block_index().x} * kBatchRows<A>;
  step_product<A>(
      matrix_row, [&](int n) -> const T* { return first_row + n < batch ? row_of(first_row + n) : nullptr; }, terms,
      rows_are_aligned<A>(matrix, terms) && rows_are_aligned<A>(any_row, terms),
      [&](int n, int group, const T(&sums)[kLaneRows]) {
        if (first_row + n < batch) epilogue(first_row + n, group, sums);
      });
}

// With W_hh: f(b, unit, sums of the four gates).
template <class A, class RowOf, class F>
LSTM_FUSED_DEVICE void unit_product(const Element<A>* w_hh, const LayerShape& s, const Element<A>* any_row,
                                    RowOf&& row_of, F&& f) {
  using T = Element<A>;
  const int64_t first = int64_t{block_index().y} * kTileUnits, width = s.hidden_size, lane_unit = first + lane_group();
  variant_product<A>(
      w_hh, s.proj_width,
      [&](int gate) { return lane_unit < width ? w_hh + (gate * width + lane_unit) * s.proj_width : nullptr; }, any_row,
      s.batch, row_of,
      [&](int64_t b, int group, const T(&sums)[kLaneRows]) {
        if (first + group < width) f(b, first + group, Gates<T>{sums[0], sums[1], sums[2], sums[3]});
      });
}

// With a matrix (columns, terms): f(b, column, sum).
template <class A, class RowOf, class F>
LSTM_FUSED_DEVICE void column_product(const Element<A>* matrix, int64_t columns, int64_t terms,
                                      const Element<A>* any_row, int64_t batch, RowOf&& row_of, F&& f) {
  using T = Element<A>;
  const int64_t first = int64_t{block_index().y} * kMatrixRows;
  variant_product<A>(
      matrix, terms,
      [&](int r) {
        const int64_t column = first + r * kGroups + lane_group();
        return column < columns ? matrix + column * terms : nullptr;
      },
      any_row, batch, row_of,
      [&](int64_t b, int group, const T(&sums)[kLaneRows]) {
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r)
          if (first + r * kGroups + group < columns) f(b, first + r * kGroups + group, sums[r]);
      });
}

}  // namespace lstm_fused
