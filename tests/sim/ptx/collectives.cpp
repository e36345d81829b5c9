// The table's part that several threads execute together: barriers, shuffles and products, and what blocks of a cluster
// have of one another.
#include "lane.h"
#include "memory.h"
#include "opcodes.h"
#include "sim/cluster.h"
#include "sim/device.h"

namespace sim::ptx {
namespace {

constexpr uint32_t kAllLanes = 0xffffffff;

// All lanes of a warp execute an aligned instruction as one. The same line of the source will not do: the compiler may
// have made two instructions of it.
void meet_aligned(Lane& lane, const Instruction& i) {
  Warp& warp = *self->warp;
  if (warp.aligned_lanes == 0) warp.aligned = &i;
  if (warp.aligned != &i) {
    const Instruction& other = *static_cast<const Instruction*>(warp.aligned);
    fault(lane, i, "lanes of a warp are at different instructions, others at line " + std::to_string(other.line));
  }
  if (++warp.aligned_lanes == warp.num_threads) warp.aligned_lanes = 0;
}
void check_all_lanes(const Lane& lane, const Instruction& i, int operand) {
  if (lane.get<uint32_t>(i, i.operand[operand]) != kAllLanes) fault(lane, i, "not of all lanes of a warp");
}

void block_barrier(Lane& lane, const Instruction& i) {
  if (lane.integer(i, 0) != 0) fault(lane, i, "a barrier of all threads that is not the block's");
  if (is_skipped(i.site)) return;
  meet_aligned(lane, i);
  sim::block_barrier(i.site);
}
void named_barrier(Lane& lane, const Instruction& i) {
  if (is_skipped(i.site)) return;
  meet_aligned(lane, i);
  sim::named_barrier(lane.integer(i, 0), lane.integer(i, 1), i.site);
}
void named_arrive(Lane& lane, const Instruction& i) {
  if (is_skipped(i.site)) return;
  meet_aligned(lane, i);
  sim::named_arrive(lane.integer(i, 0), lane.integer(i, 1), i.site);
}
void warp_barrier(Lane& lane, const Instruction& i) {
  check_all_lanes(lane, i, 0);
  sim::warp_barrier(i.site);
}

void shuffle(Lane& lane, const Instruction& i) {  // value | predicate, value, lane mask, clamp, lanes
  check_all_lanes(lane, i, 5);
  constexpr int kWholeWarp = 0x1f;
  if (lane.integer(i, 4) != kWholeWarp) fault(lane, i, "a shuffle in parts of a warp");
  lane.put(i.operand[0], sim::shuffle_xor(lane.get<uint32_t>(i, i.operand[2]), lane.integer(i, 3), i.site));
  if (i.operand[1] != kNone) lane.put(i.operand[1], true);  // the source is one of the warp's lanes
}
void vote(Lane& lane, const Instruction& i) {
  check_all_lanes(lane, i, 2);
  lane.put(i.operand[0], sim::any_lane(lane.get<bool>(i, i.operand[1]), i.site));
}

template <Factor factor>
void mma(Lane& lane, const Instruction& i) {  // d, a, b, c
  meet_aligned(lane, i);
  uint32_t a[4], b[2];
  float d[4];
  for (int n = 0; n < 4; ++n) a[n] = lane.get<uint32_t>(i, i.operand[4 + n]);
  for (int n = 0; n < 2; ++n) b[n] = lane.get<uint32_t>(i, i.operand[8 + n]);
  for (int n = 0; n < 4; ++n) d[n] = lane.get<float>(i, i.operand[10 + n]);
  sim::mma(factor, d, a, b, i.site);
  for (int n = 0; n < 4; ++n) lane.put(i.operand[n], d[n]);
}

// ---- a cluster

void cluster_arrive(Lane&, const Instruction& i) { sim::cluster_arrive(i.site); }
void cluster_wait(Lane&, const Instruction& i) { sim::cluster_wait(i.site); }

void map_shared(Lane& lane, const Instruction& i) {
  const int rank = lane.integer(i, 2);
  sim::map_shared(shared_pointer(lane, i, 1, 0), rank, i.site);  // for its checks
  lane.put(i.operand[0], shared_address(lane.get<uint32_t>(i, i.operand[1]), rank));
}

void init_mbarrier(Lane& lane, const Instruction& i) {
  sim::mbarrier_init(shared_pointer(lane, i, 0), lane.integer(i, 1), i.site);
}
void fence_mbarrier(Lane&, const Instruction&) { sim::mbarrier_fence_init(); }
void arrive(Lane& lane, const Instruction& i) { sim::mbarrier_arrive(shared_pointer(lane, i, 1), 0, i.site); }
void arrive_expect(Lane& lane, const Instruction& i) {
  sim::mbarrier_arrive(shared_pointer(lane, i, 1), lane.integer(i, 2), i.site);
}
void arrive_remote(Lane& lane, const Instruction& i) {
  sim::mbarrier_arrive_remote(shared_pointer(lane, i, 1), i.site);
}

void try_wait(Lane& lane, const Instruction& i) {
  char* const mbarrier = shared_pointer(lane, i, 1);
  const int parity = lane.integer(i, 2);
  bool done = true;
  if (!waits_are_watched()) {
    sim::mbarrier_wait(mbarrier, parity, i.site);
  } else if (!(done = sim::mbarrier_try_wait(mbarrier, parity, i.site))) {
    machine->preempt();
  }
  lane.put(i.operand[0], done);
}

}  // namespace

void add_collectives(Opcodes& table) {
  table["bar.sync 1"] = {block_barrier, {value(32)}};
  table["bar.sync 2"] = {named_barrier, {value(32), value(32)}};
  table["bar.arrive"] = {named_arrive, {value(32), value(32)}};
  table["bar.warp.sync"] = {warp_barrier, {value(32)}};
  Form in_range = value(1);
  in_range.may_be_nothing = true;
  table["shfl.sync.bfly.b32"] = {shuffle, {value(32), in_range, value(32), value(32), value(32), value(32)}};
  table["vote.sync.any.pred"] = {vote, {value(1), value(1), value(32)}};
  const Form four{Form::Kind::kValue, 32, 4}, two{Form::Kind::kValue, 32, 2};
  const std::vector<Form> fragments{four, four, two, four};
  const std::string mma_sync = "mma.sync.aligned.";
  table[mma_sync + "m16n8k16.row.col.f32.f16.f16.f32"] = {mma<Factor::kFloat16>, fragments};
  table[mma_sync + "m16n8k16.row.col.f32.bf16.bf16.f32"] = {mma<Factor::kBFloat16>, fragments};
  table[mma_sync + "m16n8k8.row.col.f32.tf32.tf32.f32"] = {mma<Factor::kTf32>, fragments};
}

void add_clusters(Opcodes& table) {
  table["barrier.cluster.arrive.release"] = {cluster_arrive, {}};
  table["barrier.cluster.wait.acquire"] = {cluster_wait, {}};
  table["mapa.shared::cluster.u32"] = {map_shared, {value(32), value(32), value(32)}};
  table["mbarrier.init.shared::cta.b64"] = {init_mbarrier, {address(32), value(32)}};
  table["fence.mbarrier_init.release.cluster"] = {fence_mbarrier, {}};
  Form state = value(64);
  state.may_be_nothing = true;
  table["mbarrier.arrive.release.cta.shared::cta.b64"] = {arrive, {state, address(32)}};
  table["mbarrier.arrive.release.cluster.shared::cluster.b64"] = {arrive_remote, {state, address(32)}};
  table["mbarrier.arrive.expect_tx.release.cta.shared::cta.b64"] = {arrive_expect, {state, address(32), value(32)}};
  table["mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64"] = {try_wait, {value(1), address(32), value(32)}};
}

}  // namespace sim::ptx
