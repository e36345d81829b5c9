#include "lane.h"

#include <vector>

#include "sim/cluster.h"
#include "timing.h"

namespace sim::ptx {
namespace {

// What a thread has for itself. Threads of one number have the same, one after the other.
struct Storage {
  std::vector<Slot> slots;
  std::vector<std::max_align_t> frame;
};
Storage& storage_of(const Thread& thread) {
  static std::unordered_map<int, Storage> all;
  return all[thread.number];
}

}  // namespace

uint64_t executed[kNumClasses] = {};

void fault(const Lane& lane, const Instruction& i, const std::string& what) {
  sim::fault(what + " (" + lane.module->name + ":" + std::to_string(i.line) + ")", i.site);
}

void Lane::unwritten(const Instruction& i, int16_t slot) const {
  const char* const place = slot == i.guard ? "as its guard " : "";
  fault(*this, i, std::string("uses ") + place + "a register that was never written");
}

void Lane::step() {
  const Instruction& i = *next++;
  if (i.guard != kNone && get<bool>(i, i.guard) == i.guard_negated) return;
  ++executed[static_cast<int>(i.what)];
  i.execute(*this, i);
}

void run_thread(const Module& module, const Function& kernel, const void* parameters) {
  Storage& storage = storage_of(*self);
  const size_t num_constants = module.constants.size(), num_slots = kernel.first_register + kernel.num_registers;
  storage.slots.assign(num_constants + num_slots, kUnwritten);
  for (size_t n = 0; n < num_constants; ++n) storage.slots[num_constants - 1 - n] = module.constants[n];
  storage.frame.resize(module.frame_bytes / sizeof(std::max_align_t) + 1);

  Lane lane{&module, storage.slots.data() + num_constants, static_cast<int>(num_slots),
            module.code.data() + kernel.begin};
  const Block& block = *self->block;
  const Shape& shape = machine->shape();
  lane.put(kThreadX, self->index);
  lane.put(kBlockX, block.index.x);
  lane.put(kBlockY, block.index.y);
  lane.put(kBlockZ, block.index.z);
  lane.put(kNumThreads, shape.threads);
  lane.put(kClusterRank, cluster_rank());
  lane.put(kClusterSize, shape.cluster);
  lane.put(kParamsBase, parameters);
  lane.put(kFrameBase, storage.frame.data());

  if (!timing) {
    while (lane.next) lane.step();
  } else {
    while (timing->take_turn(lane)) lane.step();
  }
}

}  // namespace sim::ptx
