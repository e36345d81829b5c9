// The table's part that reads and writes memory, by the functions that the primitives' twin calls too.
#include "memory.h"

#include "lane.h"
#include "opcodes.h"
#include "sim/cluster.h"
#include "sim/device.h"

namespace sim::ptx {
namespace {

constexpr int kMostBytes = 16;
constexpr int64_t kSharedBytes = int64_t{1} << 24;

struct Value {
  alignas(kMostBytes) char bytes[kMostBytes];
};

// A signed number as wide as its register.
Slot with_sign(Slot number, const Access& access) {
  const int above = 64 - 8 * access.bytes, not_in_register = 64 - access.register_bits;
  const auto extended = static_cast<int64_t>(number << above) >> above;
  return static_cast<Slot>(extended) << not_in_register >> not_in_register;
}

// What a load has brought, into the registers from operand 0 on. Those that the compiler says it has no use for get
// nothing.
void spread(Lane& lane, const Instruction& i, const Value& value) {
  const Access& access = i.access;
  for (int n = 0; n < access.count; ++n) {
    if (i.operand[n] == kNone) continue;
    Slot slot = 0;
    std::memcpy(&slot, value.bytes + n * access.bytes, access.bytes);
    if (access.is_signed) slot = with_sign(slot, access);
    const int bytes_of_it = ((1 << access.bytes) - 1) << n * access.bytes;
    lane.slots[i.operand[n]] = access.used & bytes_of_it ? slot : kUnwritten;
  }
}
// What a store takes, from the registers from operand `first` on.
Value gather(const Lane& lane, const Instruction& i, int first) {
  const Access& access = i.access;
  Value value;
  for (int n = 0; n < access.count; ++n) {
    const Slot slot = lane.get<Slot>(i, i.operand[first + n]);
    std::memcpy(value.bytes + n * access.bytes, &slot, access.bytes);
  }
  return value;
}
int size(const Instruction& i) { return i.access.bytes * i.access.count; }

// ---- the thread's own memory, and the kernel's parameters

void load_own(Lane& lane, const Instruction& i) {
  Value value;
  std::memcpy(value.bytes, lane.pointer(i, i.access.count), size(i));
  spread(lane, i, value);
}
void store_own(Lane& lane, const Instruction& i) { std::memcpy(lane.pointer(i, 0), gather(lane, i, 1).bytes, size(i)); }

// ---- shared memory

void load_shared(Lane& lane, const Instruction& i) {
  Value value;
  sim::load_shared(shared_pointer(lane, i, i.access.count), value.bytes, size(i), i.site);
  spread(lane, i, value);
}
void store_shared(Lane& lane, const Instruction& i) {
  sim::store_shared(shared_pointer(lane, i, 0), gather(lane, i, 1).bytes, size(i), i.site);
}
void store_remote(Lane& lane, const Instruction& i) {
  sim::store_remote(shared_pointer(lane, i, 0), gather(lane, i, 1).bytes, size(i), i.site);
}
void store_async(Lane& lane, const Instruction& i) {
  sim::store_remote_async(shared_pointer(lane, i, 0), gather(lane, i, 1).bytes, size(i),
                          shared_pointer(lane, i, 1 + i.access.count, 0), i.site);
}

void copy_async(Lane& lane, const Instruction& i) {
  if (lane.integer(i, 2) != kMostBytes) fault(lane, i, "copies another number of bytes than 16");
  sim::copy_async_16(shared_pointer(lane, i, 0), lane.pointer(i, 1), i.site);
}
void close_copies(Lane&, const Instruction&) { sim::close_copies(); }
void wait_for_copies(Lane& lane, const Instruction& i) { sim::wait_for_copies(lane.integer(i, 0), i.site); }

// ---- global memory

// Words of 4 bytes, if others may write them.
void check_words(const Lane& lane, const Instruction& i) {
  if (i.access.bytes != sizeof(uint32_t)) fault(lane, i, "others than words of 4 bytes that others may write");
}

void load_global(Lane& lane, const Instruction& i) {
  const char* const from = lane.pointer(i, i.access.count);
  Value value{};
  if (i.access.order == Order::kWeak) {
    sim::load_global(from, value.bytes, size(i), i.site);
  } else {
    check_words(lane, i);
    lane.version = machine->version();
    uint32_t words[4];
    sim::load_relaxed(from, words, i.access.count, i.site);
    // A wait that is to do nothing takes what is there for what it waits for.
    for (uint32_t& word : words) word -= i.wait.file && is_skipped(i.wait) && word == ~0u;
    std::memcpy(value.bytes, words, size(i));
  }
  spread(lane, i, value);
}

void store_global(Lane& lane, const Instruction& i) {
  char* const to = lane.pointer(i, 0);
  const Value value = gather(lane, i, 1);
  if (i.access.order == Order::kWeak) return sim::store_global(to, value.bytes, size(i), i.site);
  check_words(lane, i);
  uint32_t words[4];
  std::memcpy(words, value.bytes, size(i));
  sim::store_relaxed(to, words, i.access.count, i.site);
}

void fence(Lane&, const Instruction& i) { sim::fence_gpu(i.site); }

// ---- names

struct Type {
  std::string name;
  int bytes;
};
std::vector<Type> types() {
  std::vector<Type> types = {{"s8", 1}, {"u8", 1}, {"b8", 1}};
  for (const int bits : {16, 32, 64})
    for (const char* kind : {"s", "u", "b", "f"}) types.push_back({kind + std::to_string(bits), bits / 8});
  return types;
}

// Loads and stores of one and more values: `load` and `store` are what stands before the vector and the type.
void add_accesses(Opcodes& table, const std::string& load, Execute run_load, const std::string& store,
                  Execute run_store, int address_bits, Order load_order = Order::kWeak,
                  Order store_order = Order::kWeak) {
  for (const Type& type : types()) {
    for (const int count : {1, 2, 4}) {
      if (count * type.bytes > kMostBytes) continue;
      const std::string suffix = "." + (count > 1 ? "v" + std::to_string(count) + "." : "") + type.name;
      Form values{Form::Kind::kValue, 8 * type.bytes, count, true, false};
      Access access;
      access.bytes = static_cast<uint8_t>(type.bytes);
      access.count = static_cast<uint8_t>(count);
      access.is_signed = type.name[0] == 's';
      access.order = store_order;
      if (!store.empty()) table[store + suffix] = {run_store, {address(address_bits), values}, access};
      values.may_be_nothing = count > 1;
      access.order = load_order;
      if (!load.empty()) table[load + suffix] = {run_load, {values, address(address_bits)}, access};
    }
  }
}

}  // namespace

// 32 bits. The upper byte is 0 for the block's own, or 1 + the rank of another block of the cluster.
char* shared_pointer(const Lane& lane, const Instruction& i, int operand, int64_t displacement) {
  const uint32_t address = lane.get<uint32_t>(i, i.operand[operand]) + static_cast<uint32_t>(displacement);
  const int rank = static_cast<int>(address / kSharedBytes) - 1;
  if (rank >= machine->shape().cluster) fault(lane, i, "takes another number for an address in shared memory");
  const Block& block = rank < 0 ? *self->block : self->block->cluster->blocks[rank];
  return shared_memory_of(block) + address % kSharedBytes - kSharedBase;
}
char* shared_pointer(const Lane& lane, const Instruction& i, int operand) {
  return shared_pointer(lane, i, operand, i.displacement);
}
uint32_t shared_address(uint32_t own, int rank) {
  return static_cast<uint32_t>((rank + 1) * kSharedBytes + own % kSharedBytes);
}

void add_memory(Opcodes& table) {
  add_accesses(table, "ld.param", load_own, "st.param", store_own, 64);
  add_accesses(table, "ld.local", load_own, "st.local", store_own, 64);
  add_accesses(table, "ld.shared", load_shared, "st.shared", store_shared, 32);
  add_accesses(table, "", nullptr, "st.shared::cluster", store_remote, 32);
  add_accesses(table, "ld", load_global, "st", store_global, 64);  // generic: the kernels have no other
  add_accesses(table, "ld.global", load_global, "st.global", store_global, 64);
  add_accesses(table, "ld.relaxed.gpu.global", load_global, "st.relaxed.gpu.global", store_global, 64, Order::kRelaxed,
               Order::kRelaxed);
  const std::string async = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes";
  add_accesses(table, "", nullptr, async, store_async, 32);
  for (auto& [name, opcode] : table)
    if (name.rfind(async, 0) == 0) opcode.forms.push_back(address(32));

  table["fence.acq_rel.gpu"] = {fence, {}};
  table["cp.async.cg.shared.global"] = {copy_async, {address(32), address(64), value(32)}};
  table["cp.async.commit_group"] = {close_copies, {}};
  table["cp.async.wait_group"] = {wait_for_copies, {value(32)}};
}

}  // namespace sim::ptx
