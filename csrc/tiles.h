// Kernel kinds, launches and sizes on chip. The planner computes with these formulae and the kernels assert them, so
// that the two cannot drift apart.
#pragma once

#include <cstdint>
#include <string>

#include "params.h"

namespace lstm_fused {

enum class KernelKind : int32_t { kStep, kBlock, kCluster, kGroup, kCpu };

constexpr const char* kind_name(KernelKind kind) {
  constexpr const char* kNames[] = {"step", "block", "cluster", "group", "cpu"};
  return kNames[static_cast<int>(kind)];
}

constexpr const char* dtype_name(DType dtype) {
  constexpr const char* kNames[] = {"float16", "bfloat16", "float32", "float64"};
  return kNames[static_cast<int>(dtype)];
}

// The name of an entry of the launcher table: "step_bfloat16_training".
inline std::string kernel_name(KernelKind kind, DType dtype, bool training) {
  return std::string(kind_name(kind)) + "_" + dtype_name(dtype) + (training ? "_training" : "_inference");
}

constexpr int64_t element_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// A product of gates (M) by batch rows (N) over h (K), on mma.sync tiles.
constexpr int64_t kTileRows = 8;   // N of mma.sync
constexpr int64_t kTileUnits = 8;  // two M = 16 tiles are 32 rows of W_hh: i, f, g, o of 8 hidden units
constexpr int64_t kTileK = 16;     // of 16-bit elements; two K = 8 tiles in TF32
constexpr int64_t kThreads = 256;  // of a block, where its size does not depend on H

// A warp reads matrices in chunks of 64 bytes of a row, 16 for each of 4 lanes; its 8 groups of 4 lanes take 8 units.
constexpr int64_t kChunkBytes = 64;
constexpr int64_t kWarp = 32;

constexpr int64_t num_chunks(DType dtype, int64_t width) { return ceil_div(width * element_bytes(dtype), kChunkBytes); }

// Rows of h in shared memory lie an odd multiple of 64 bytes apart: reads of 16 bytes then meet no bank twice.
constexpr int64_t shared_row_bytes(int64_t chunks) { return (chunks + (chunks % 2 == 0)) * kChunkBytes; }

// ---- block. Forward, a warp holds the four rows of W_hh of 8 hidden units; backward, the columns of 16. Per lane that
// is 16 registers for a chunk forward, and 32 for 16 bytes of hidden units backward.
struct BlockVariant {
  int64_t hidden_chunks, input_chunks;  // of a row of h and of x; 0: x W_ih^T is given
};

constexpr bool is_16_bit(DType dtype) { return element_bytes(dtype) == 2; }

// The largest H, by the registers that W_hh takes: nvcc spills a few beyond it.
constexpr int64_t block_max_hidden(DType dtype) { return is_16_bit(dtype) ? 128 : dtype == DType::kFloat32 ? 64 : 0; }

// The smallest of the compiled sizes that holds H, and I where the input is fused.
constexpr bool block_fuses_input(DType dtype, int64_t hidden_size, int64_t input_size) {
  return num_chunks(dtype, input_size) <= 2 && hidden_size <= 64;
}
constexpr BlockVariant block_variant(DType dtype, int64_t hidden_size, bool fuses_input) {
  return {is_16_bit(dtype) && hidden_size <= 64 ? 2 : 4, fuses_input ? 2 : 0};
}
constexpr int64_t block_forward_threads(int64_t hidden_size) { return kWarp * ceil_div(hidden_size, 8); }
constexpr int64_t block_backward_threads(int64_t hidden_size) { return kWarp * ceil_div(hidden_size, 16); }

// h (and x) of a tile of rows, this step's and the next one's.
constexpr int64_t block_forward_shared_bytes(BlockVariant variant) {
  return 2 * kTileRows * shared_row_bytes(variant.hidden_chunks + variant.input_chunks);
}
// The gradients of the four gates of a tile of rows, likewise.
constexpr int64_t block_backward_shared_bytes(BlockVariant variant) {
  return 2 * kTileRows * shared_row_bytes(4 * variant.hidden_chunks);
}

// Registers per thread, at most: the weights and, as nvcc reports them, the rest, but no more than a full block may
// have. The rest is larger without tensor cores, where a lane has the sums of all 8 rows.
constexpr int64_t block_registers(int64_t weights, int64_t rest, int64_t most_threads) {
  const int64_t allowed = 65536 / most_threads;
  return weights + rest < allowed ? weights + rest : allowed;
}
constexpr bool has_tensor_cores(DType dtype, bool allow_tf32) {
  return is_16_bit(dtype) || (dtype == DType::kFloat32 && allow_tf32);
}
constexpr int64_t block_max_units(DType dtype, BlockVariant variant) {
  return variant.hidden_chunks * kChunkBytes / element_bytes(dtype);
}
constexpr int64_t block_forward_registers(DType dtype, bool allow_tf32, BlockVariant variant) {
  const int64_t rest = !has_tensor_cores(dtype, allow_tf32) ? 128 : variant.input_chunks > 0 ? 104 : 88;
  return block_registers(16 * (variant.hidden_chunks + variant.input_chunks), rest,
                         block_forward_threads(block_max_units(dtype, variant)));
}
constexpr int64_t block_backward_registers(DType dtype, bool allow_tf32, BlockVariant variant) {
  return block_registers(32 * variant.hidden_chunks, has_tensor_cores(dtype, allow_tf32) ? 120 : 128,
                         block_backward_threads(block_max_units(dtype, variant)));
}

// W_hh and, where the input is fused, W_ih in the registers of a block, rows padded to whole chunks.
constexpr int64_t block_weight_bytes(BlockVariant variant, int64_t hidden_size) {
  return 4 * round_up(hidden_size, kTileUnits) * (variant.hidden_chunks + variant.input_chunks) * kChunkBytes;
}

// ---- cluster. As block, but the blocks of a cluster have the units between them, and several warps may share a tile
// of units, each with a part of K: 1 or 2 parts forward, of 8 chunks of h, 16 registers each; twice as many backward.
constexpr int64_t kClusterUnits = 16;  // a block has a multiple of it
constexpr int64_t kClusterThreads = 256;
constexpr int64_t kClusterForwardChunks = 8;
constexpr int64_t kClusterBackwardChunks = 16;  // of grad_gates, 8 registers each

constexpr int64_t cluster_max_hidden(DType dtype) {
  return is_16_bit(dtype) ? 512 : dtype == DType::kFloat32 ? 256 : 0;
}
constexpr int64_t cluster_split(DType dtype, int64_t hidden_size) {
  return ceil_div(num_chunks(dtype, hidden_size), kClusterForwardChunks);
}
constexpr int64_t cluster_units(int64_t hidden_size, int64_t blocks) {
  return round_up(ceil_div(hidden_size, blocks), kClusterUnits);
}
constexpr int64_t cluster_max_units(int64_t split) { return kClusterThreads / kWarp * kTileUnits / split; }

// Two tiles and their mbarriers; of each tile of units what goes out, and twice the sums that its warps exchange.
constexpr int64_t cluster_tiles_bytes(int64_t chunks) { return 2 * kTileRows * shared_row_bytes(chunks) + 16; }
constexpr int64_t cluster_sums_bytes(int64_t split, int64_t values) {  // `values` of a lane before they are shared out
  return split == 1 ? 0 : 2 * split * values * kWarp * 4;
}
constexpr int64_t cluster_forward_shared_bytes(DType dtype, int64_t split, int64_t units) {
  return cluster_tiles_bytes(split * kClusterForwardChunks) +
         units / kTileUnits * (kTileRows * kTileUnits * element_bytes(dtype) + cluster_sums_bytes(split, 8));
}
constexpr int64_t cluster_backward_shared_bytes(DType dtype, int64_t split, int64_t units) {
  return cluster_tiles_bytes(split * kClusterBackwardChunks) +
         units / kClusterUnits * (kTileRows * kClusterUnits * 4 * element_bytes(dtype) + cluster_sums_bytes(split, 4));
}

// ---- step. A block multiplies the four rows of W_hh of kTileUnits hidden units by as many rows of the batch as its
// registers have accumulators for.
constexpr int64_t step_rows(DType dtype, bool allow_tf32) {
  const int64_t tiles = has_tensor_cores(dtype, allow_tf32) ? 4 : dtype == DType::kFloat32 ? 2 : 1;
  return tiles * kTileRows;
}

// How one recurrent kernel covers a layer. A group of blocks has all of W_hh between them and takes `rows_per_group`
// rows of the batch in one direction through all T, or in `step` through one step; num_groups groups cover the batch
// and the directions.
struct Launch {
  KernelKind kind = KernelKind::kStep;
  DType dtype = DType::kFloat32;
  bool training = false;
  bool allow_tf32 = false;
  bool fuses_input = false;       // the kernel multiplies x by W_ih itself: ForwardParams.x is set
  int64_t threads_per_block = 0;  // forward
  int64_t blocks_per_group = 0;
  int64_t num_groups = 0;
  int64_t units_per_block = 0;  // hidden units; four times as many rows of W_hh
  int64_t rows_per_group = 0;
  int64_t shared_bytes = 0;  // dynamic, per block, forward; `step` knows its own
  int64_t num_directions = 1;
};

constexpr int64_t num_blocks(const Launch& launch) { return launch.blocks_per_group * launch.num_groups; }

// ---- group: estimates until its kernel exists.
constexpr int64_t kRegistersPerThread = 208;  // ptxas for sm_90: 206 with 40 fragments of W_hh resident, no spills
constexpr int64_t kFragmentBytesPerThread = 16;
constexpr int64_t kRegisterWeightBytes = kThreads * 40 * kFragmentBytesPerThread;  // 160 KiB of W_hh per block
constexpr int64_t kCellsPerThread = 16;  // c stays in registers for all T, in float
constexpr int64_t kGateStages = 2;       // tiles of x W_ih^T in flight

// Bytes of W_hh that one block holds: (4 * units, hidden_size), K padded to whole tiles.
constexpr int64_t weight_bytes(DType dtype, int64_t units, int64_t hidden_size) {
  return 4 * units * round_up(hidden_size, kTileK) * element_bytes(dtype);
}

constexpr int64_t register_weight_bytes(DType dtype, int64_t units, int64_t hidden_size) {
  const int64_t bytes = weight_bytes(dtype, units, hidden_size);
  return bytes < kRegisterWeightBytes ? bytes : kRegisterWeightBytes;
}

// The most rows of the batch whose c fits the registers of a block with `units` hidden units, in whole tiles.
constexpr int64_t max_rows(int64_t units) {
  const int64_t rows = kThreads * kCellsPerThread / units / kTileRows * kTileRows;
  return rows > kTileRows ? rows : kTileRows;
}

// Dynamic shared memory of one block: h twice (this step's and the next one's), input gates in flight, and what the
// registers leave over of W_hh. A cluster exchanges h of all its rows in shared memory; a group stages one tile of rows
// from L2.
constexpr int64_t shared_bytes(KernelKind kind, DType dtype, int64_t units, int64_t rows, int64_t hidden_size) {
  const int64_t h_rows = kind == KernelKind::kGroup ? kTileRows : rows;
  const int64_t h_bytes = 2 * h_rows * round_up(hidden_size, kTileK) * element_bytes(dtype);
  const int64_t gate_bytes = kGateStages * kTileRows * 4 * units * element_bytes(dtype);
  return h_bytes + gate_bytes + weight_bytes(dtype, units, hidden_size) -
         register_weight_bytes(dtype, units, hidden_size);
}

}  // namespace lstm_fused
