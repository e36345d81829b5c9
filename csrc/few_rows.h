// Where a matrix is multiplied as it lies in memory, and where it is packed first.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lstm_fused {

// Rows, steps times batch, above which packing is repaid of a matrix whose rows have `width` elements of `bytes` each.
// A row costs a sum across the lanes of a vector for every row of the matrix, packing a move of each of its elements:
// the more of those there are, the more rows it takes. Where the two meet, one thread of an AMD EPYC (Zen 4), AVX-512,
// float32: 4 rows at a width of 16, 8 at 32, 16 at 64, 24 to 32 at 128, 64 at 256, about 128 at 512; float64: twice as
// many. A Xeon packs a fifth earlier.
constexpr int64_t rows_that_repay_packing(int64_t width, int64_t bytes) { return width * bytes / 20; }

// The most rows of a product that reads the matrix where it lies. Tiles of narrow vectors have fewer rows, and read it
// more often.
constexpr int64_t few_rows(int64_t width, int64_t bytes, int64_t vector_bytes) {
  return std::min<int64_t>(rows_that_repay_packing(width, bytes), vector_bytes >= 64 ? 48 : 24);
}

// The most rows of a recurrence that does. Panels serve it worse than a product, with narrow vectors, and better where
// a core reads two vectors of 64 bytes in a cycle: those with 48 KB of first-level cache. Where the two meet on Zen 5,
// one row of the batch, float32: 12 steps at a width of 64 and 256, 14 at 128, 20 at 512, 18 at 1024; three rows 24 to
// 36; float64 twice as many.
constexpr int64_t few_recurrent_rows(int64_t width, int64_t bytes, int64_t vector_bytes, int64_t l1_bytes) {
  const bool reads_wide = vector_bytes >= 64 && l1_bytes >= 48 << 10;
  return std::min(rows_that_repay_packing(width, bytes) * (vector_bytes >= 64 ? 1 : 2), (reads_wide ? 5 : 24) * bytes);
}

}  // namespace lstm_fused
