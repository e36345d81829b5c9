// Kernel kinds, launches and sizes on chip. The planner computes with these formulae and the kernels assert them, so
// that the two cannot drift apart.
#pragma once

#include <cstdint>
#include <string>

#include "params.h"

namespace lstm_fused {

// Those from kVariant on are of other cells than the plain one (variant_params.h). They are no candidates of a plan: it
// is made of the plain cell's kinds, and built_kind() stands for the one that is chosen.
enum class KernelKind : int32_t {
  kStep,
  kBlock,
  kCluster,
  kGroup,
  kCpu,
  kVariant,
  kVariantBlock,
  kVariantCluster,
  kVariantGroup
};

constexpr KernelKind built_kind(const Problem& problem, KernelKind kind) {
  if (!problem.is_variant) return kind;
  return kind == KernelKind::kBlock     ? KernelKind::kVariantBlock
         : kind == KernelKind::kCluster ? KernelKind::kVariantCluster
         : kind == KernelKind::kGroup   ? KernelKind::kVariantGroup
                                        : KernelKind::kVariant;
}

constexpr const char* kind_name(KernelKind kind) {
  constexpr const char* kNames[] = {"step",    "block",         "cluster",         "group",        "cpu",
                                    "variant", "variant_block", "variant_cluster", "variant_group"};
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
// Of a block, where its size does not depend on H: with all registers of an SM it has 256 for each, and no thread can
// use more.
constexpr int64_t kThreads = 256;

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

// Where the registers that H = 64 leaves over hold W_ih as well: 128 bytes of a row of it.
constexpr bool block_fuses_input(DType dtype, int64_t hidden_size, int64_t input_size) {
  return num_chunks(dtype, input_size) <= 2 && hidden_size <= 64;
}
// The smallest of the compiled sizes that holds H, and I where the input is fused.
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
  const int64_t allowed = most_threads > kThreads ? 65536 / most_threads : 256;
  return weights + rest < allowed ? weights + rest : allowed;
}
constexpr bool has_tensor_cores(DType dtype, bool allow_tf32) {
  return is_16_bit(dtype) || (dtype == DType::kFloat32 && allow_tf32);
}
constexpr int64_t block_max_units(DType dtype, BlockVariant variant) {
  return variant.hidden_chunks * kChunkBytes / element_bytes(dtype);
}
constexpr int64_t block_forward_registers(DType dtype, bool allow_tf32, BlockVariant variant) {
  const bool shares_sm = is_16_bit(dtype) && variant.hidden_chunks + variant.input_chunks == 2;  // two blocks do
  if (shares_sm) return 128;
  const int64_t rest = has_tensor_cores(dtype, allow_tf32) ? 152 : 192;
  return block_registers(16 * (variant.hidden_chunks + variant.input_chunks), rest,
                         block_forward_threads(block_max_units(dtype, variant)));
}
constexpr int64_t block_backward_registers(DType dtype, bool allow_tf32, BlockVariant variant) {
  return block_registers(32 * variant.hidden_chunks, has_tensor_cores(dtype, allow_tf32) ? 176 : 128,
                         block_backward_threads(block_max_units(dtype, variant)));
}

// W_hh and, where the input is fused, W_ih in the registers of a block, rows padded to whole chunks.
constexpr int64_t block_weight_bytes(BlockVariant variant, int64_t hidden_size) {
  return 4 * round_up(hidden_size, kTileUnits) * (variant.hidden_chunks + variant.input_chunks) * kChunkBytes;
}

// ---- cluster. As block, but the blocks of a cluster have the units between them, and several warps may share a tile
// of units, each with a part of K: 1 or 2 parts forward, of 8 chunks of h, 16 registers each; twice as many backward.
constexpr int64_t kClusterUnits = 16;  // a block has a multiple of it: a warp's share backward
constexpr int64_t kClusterThreads = 256;
constexpr int64_t kClusterRegisters = 256;  // per thread, at most
constexpr int64_t kClusterForwardChunks = 8;
constexpr int64_t kClusterBackwardChunks = 16;  // of grad_gates, 8 registers each

// 1024 bytes of h are two parts of K, of which a block holds 32 units' rows, and 16 blocks all 512 of a 16-bit type. A
// third part would leave them 21 each, fewer than H.
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

// W_hh in the registers of a block, padded to whole parts of K.
constexpr int64_t cluster_weight_bytes(DType dtype, int64_t hidden_size, int64_t units) {
  return 4 * units * cluster_split(dtype, hidden_size) * kClusterForwardChunks * kChunkBytes;
}

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

// ---- group. Up to as many blocks as the device has SMs, one on each, have the units between them, 16 each, and
// exchange h, or grad_gates, through global memory. The 8 warps of a block, or 4, share K. Per lane that is 16 bytes
// for each of 8 rows of W_hh and chunk of h, or of 2 columns and chunk of grad_gates; the first ones lie in registers,
// the others in shared memory. Every block reads all of h: fewer units for each would read it more often, more would
// leave SMs idle at H = 1024 and not fit their registers.
constexpr int64_t kGroupUnits = 16;
// Of a block that has an SM to itself. Two blocks of half as many share one.
constexpr int64_t kGroupWarps = kThreads / kWarp;
constexpr int64_t kReservedSharedBytes = 1024;  // of an SM, for each block that it has
struct GroupVariant {
  DType dtype;
  bool tensor_cores;
  bool stacked;  // layers of a stack run side by side: a block has its units' part of W_ih, too
  bool backward;
};

// Places for the sums of a turn: two, so that the products of one turn need not wait for the cells of another, where
// shared memory has room for them.
constexpr int64_t group_num_sums(DType dtype, bool stacked) { return is_16_bit(dtype) && !stacked ? 2 : 1; }

// Lines of a matrix per lane: rows of W_hh, four for a unit; backward columns, one for a unit.
constexpr int64_t group_lines(bool backward) { return (backward ? 1 : 4) * kGroupUnits / 8; }
// Chunks of each warp's part of K in registers, W_hh and W_ih alike: 128 per lane in all, or 64 without tensor cores;
// fewer where sums need so many that nvcc would spill.
constexpr int64_t group_chunks_held(GroupVariant variant) {
  const auto [dtype, tensor_cores, stacked, backward] = variant;
  if (!tensor_cores && backward) return stacked ? 3 : 5;
  if (!is_16_bit(dtype) && stacked && !backward) return 1;
  if (is_16_bit(dtype) && !stacked && backward) return 12;
  return (tensor_cores ? 4 : 2) * (backward ? 4 : 1) / (stacked ? 2 : 1);
}
constexpr int64_t kGroupRegisters = 256;  // per thread: all of an SM's
// Of 8 rows, which a group takes in turns: of each, a block leaves 3 KB for the next step backward in 16 bit. For 64 on
// each of 132 SMs that is 25 MB, half of an H100's L2, from where it should come.
constexpr int64_t kGroupMostTiles = 64;
// In one launch: 8 of H = 256 fill an H100, deeper stacks are rare, and the parameters of 8 are half of the 4 KB that a
// kernel may have.
constexpr int64_t kGroupMostLayers = 8;
// Sums of all gates, forward, or of grad_h lie unit by unit, row by row. So many units to a row: neither those who
// write nor those who read meet a bank twice.
constexpr int64_t group_sum_stride(bool backward) { return backward ? 20 : 17; }
constexpr int64_t group_sum_bytes(bool backward, int64_t warps) {
  return warps * kTileRows * group_sum_stride(backward) * (backward ? 1 : 4) * 4;
}
// What a cell has from step to step.
constexpr int64_t kGroupCarriedBytes = 8;
// Of a tile of rows, what its cells have, and how many steps it has, rounded up to a vector.
constexpr int64_t kGroupTileBytes = kTileRows * kGroupUnits * kGroupCarriedBytes + kChunkBytes / 4;

constexpr int64_t group_blocks(int64_t hidden_size) { return ceil_div(hidden_size, kGroupUnits); }
constexpr int64_t group_row_tiles(int64_t batch) { return batch > kTileRows ? ceil_div(batch, kTileRows) : 1; }

// Chunks of K for each warp: of h forward, of grad_gates backward.
constexpr int64_t group_part_chunks(DType dtype, int64_t hidden_size, bool backward, int64_t warps) {
  return ceil_div(num_chunks(dtype, (backward ? 4 : 1) * hidden_size), warps);
}
// Bytes of W_hh (and W_ih) in one block, and of these in its registers.
constexpr int64_t group_chunk_bytes(GroupVariant variant, int64_t warps) {
  return (variant.stacked ? 2 : 1) * group_lines(variant.backward) * warps * kWarp * (kChunkBytes / 4);
}
constexpr int64_t group_weight_bytes(GroupVariant variant, int64_t hidden_size, int64_t warps) {
  return group_part_chunks(variant.dtype, hidden_size, variant.backward, warps) * group_chunk_bytes(variant, warps);
}
constexpr int64_t group_register_bytes(GroupVariant variant, int64_t hidden_size, int64_t warps) {
  const int64_t chunks = group_part_chunks(variant.dtype, hidden_size, variant.backward, warps);
  const int64_t held = group_chunks_held(variant);
  return (chunks < held ? chunks : held) * group_chunk_bytes(variant, warps);
}
// Forward, whether turns go in pairs (kernels/group_pairs.cuh), where all rows have as many steps. What a turn sends
// leaves behind the products of the second turn after it: two tiles would wait for ever, three too long.
constexpr int64_t kLeastInPairs = 4;
constexpr bool group_takes_pairs(GroupVariant variant, int64_t hidden_size, int64_t batch, int64_t rows_per_group,
                                 int64_t warps) {
  const int64_t rows_of_last = batch - (ceil_div(batch, rows_per_group) - 1) * rows_per_group;
  return !variant.backward && group_num_sums(variant.dtype, variant.stacked) == 2 && warps == kGroupWarps &&
         group_row_tiles(rows_of_last) >= kLeastInPairs &&
         group_part_chunks(variant.dtype, hidden_size, false, warps) <= group_chunks_held(variant);
}
// What the registers leave over of the weights; the sums of the warps, of four gates, or of grad_h, where those from
// the layer above stay apart; and what each tile of rows has.
constexpr int64_t group_shared_bytes(GroupVariant variant, int64_t hidden_size, int64_t rows_per_group, int64_t warps) {
  const int64_t sums = group_num_sums(variant.dtype, variant.stacked) * group_sum_bytes(variant.backward, warps);
  return group_weight_bytes(variant, hidden_size, warps) - group_register_bytes(variant, hidden_size, warps) +
         (variant.stacked && variant.backward ? 2 : 1) * sums + rows_per_group / kTileRows * kGroupTileBytes;
}

// Global memory of one direction, for the rows of all tiles: h or grad_gates of all blocks, of so many steps one after
// the other, all kGroupMissing at first.
constexpr int64_t kGroupSlots = 16;
constexpr uint32_t kGroupMissing = 0xffffffff;  // a word that nobody has sent yet
constexpr int64_t group_row_bytes(DType dtype, int64_t hidden_size, bool backward) {
  return group_blocks(hidden_size) * kGroupUnits * element_bytes(dtype) * (backward ? 4 : 1);
}
constexpr int64_t group_rows(int64_t rows_per_group, int64_t batch) {  // in whole groups
  return round_up(batch, rows_per_group);
}
constexpr int64_t group_exchange_bytes(DType dtype, int64_t hidden_size, int64_t rows, bool backward) {
  return rows * kGroupSlots * group_row_bytes(dtype, hidden_size, backward);
}
// h, or grad_gates, of every step and row for the next layer of the launch, all kGroupMissing at first.
constexpr int64_t group_onward_bytes(DType dtype, int64_t hidden_size, int64_t rows, bool backward) {
  return rows * group_row_bytes(dtype, hidden_size, backward);
}

// ---- step. A block multiplies the four rows of W_hh of kTileUnits hidden units by as many rows of the batch as its
// registers have accumulators for.
constexpr int64_t step_rows(DType dtype, bool allow_tf32) {
  const int64_t tiles = has_tensor_cores(dtype, allow_tf32) ? 4 : dtype == DType::kFloat32 ? 2 : 1;
  return tiles * kTileRows;
}

// How one recurrent kernel covers a layer. A group of blocks has all of W_hh between them and takes `rows_per_group`
// rows of the batch in one direction through all T, or in `step` through one step; num_groups groups cover the batch,
// the directions, and the layers that run at the same time.
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
  int64_t shared_bytes = 0;        // dynamic, per block, forward; `step` knows its own
  int64_t num_directions = 1;      // of this launch
  int64_t directions_at_once = 2;  // of a layer's, at most; the others follow in a launch of their own
  int64_t num_layers = 1;          // of this launch, side by side, in one direction
};

constexpr int64_t num_blocks(const Launch& launch) { return launch.blocks_per_group * launch.num_groups; }

}  // namespace lstm_fused
