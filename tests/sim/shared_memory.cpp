#include "shared_memory.h"

#include <cstring>
#include <string>

#include "machine.h"

namespace sim {
namespace {

Stamp stamp_of(const Thread& thread, Site site) {
  return {now, 0, static_cast<uint64_t>(thread.in_cluster), static_cast<uint64_t>(site.line)};
}

template <class V>
bool same(const V& a, const V& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// Whether the access happened before what `thread` does now.
bool ordered(Stamp stamp, const Thread& thread) {
  if (stamp.in_flight) return false;
  if (static_cast<int>(stamp.thread) == thread.in_cluster) return true;
  const Block& block = *thread.block;
  const int index = static_cast<int>(stamp.thread) - block.first_in_cluster;
  if (index < 0 || index >= machine->shape().threads) return false;
  return stamp.time <= block.known ||
         (index / kWarpSize == thread.index / kWarpSize && stamp.time <= thread.warp->known);
}

}  // namespace

void SharedMemory::reset(int64_t bytes) {
  size_ = bytes;
  start_ = now++;
  if (static_cast<int64_t>(data_.size()) < bytes) {
    data_.resize(bytes);
    bytes_.resize(bytes);
  }
}

void SharedMemory::race(const Thread& thread, int64_t offset, const char* verb, Stamp other, const char* other_verb,
                        Site site) const {
  const Block& block = thread.block->cluster->blocks[other.thread / thread.block->threads.size()];
  const Thread& who = block.threads[other.thread % block.threads.size()];
  const std::string whom = &who == &thread ? "it" : text(who);
  const std::string what = std::string(verb) + " byte " + std::to_string(offset) + " of shared memory, which ";
  if (other.in_flight) {
    fault("race: " + what + whom + " is still copying to (line " + std::to_string(other.line) + ")", site);
  }
  fault("race: " + what + whom + " " + other_verb + " (line " + std::to_string(other.line) +
            ") with no barrier in between",
        site);
}

void SharedMemory::check(int64_t offset, int64_t bytes, const char* verb, Site site) const {
  const bool inside = offset >= 0 && offset + bytes <= size_;
  if (inside && offset % bytes == 0) return;
  fault(std::string(verb) + " " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) + " of " +
            std::to_string(size_) + " of shared memory: " + (inside ? "misaligned" : "out of bounds"),
        site);
}

void SharedMemory::load(const Thread& thread, int64_t offset, void* value, int64_t bytes, Site site) {
  check(offset, bytes, "reads", site);
  const Stamp mine = stamp_of(thread, site);
  Byte before{}, after{};  // what is right for one byte of a value mostly holds for the next
  for (int64_t i = offset; i < offset + bytes; ++i) {
    Byte& byte = bytes_[i];
    if (i > offset && same(byte, before)) {
      byte = after;
      continue;
    }
    before = byte;
    if (!exists(byte.writer)) fault("reads byte " + std::to_string(i) + " of shared memory, never written", site);
    if (!ordered(byte.writer, thread)) race(thread, i, "reads", byte.writer, "wrote", site);
    // A reader ordered before this one needs no place: who is ordered after this one is ordered after it, too.
    if (!exists(byte.readers[0]) || ordered(byte.readers[0], thread)) {
      byte.readers[0] = mine;
    } else if (!exists(byte.readers[1]) || ordered(byte.readers[1], thread)) {
      byte.readers[1] = mine;
    } else {
      byte.readers[machine->random().below(2)] = mine;
    }
    after = byte;
  }
  std::memcpy(value, &data_[offset], bytes);
}

void SharedMemory::check_write(const Thread& thread, int64_t offset, int64_t bytes, Site site) const {
  check(offset, bytes, "writes", site);
  for (int64_t i = offset; i < offset + bytes; ++i) {
    const Byte& byte = bytes_[i];
    if (i > offset && same(byte, bytes_[i - 1])) continue;
    if (exists(byte.writer) && !ordered(byte.writer, thread)) race(thread, i, "writes", byte.writer, "wrote", site);
    for (const Stamp& reader : byte.readers) {
      if (exists(reader) && !ordered(reader, thread)) race(thread, i, "writes", reader, "read", site);
    }
  }
}

void SharedMemory::store(const Thread& thread, int64_t offset, const void* value, int64_t bytes, Site site) {
  check_write(thread, offset, bytes, site);
  const Stamp mine = stamp_of(thread, site);
  for (int64_t i = offset; i < offset + bytes; ++i) bytes_[i] = {mine, {}};
  std::memcpy(&data_[offset], value, bytes);
}

void SharedMemory::begin_copy(const Thread& thread, int64_t offset, int64_t bytes, Site site) {
  check_write(thread, offset, bytes, site);
  Stamp mine = stamp_of(thread, site);
  mine.in_flight = 1;
  for (int64_t i = offset; i < offset + bytes; ++i) bytes_[i] = {mine, {}};
}

void SharedMemory::land_copy(int64_t offset, const void* value, int64_t bytes) {
  std::memcpy(&data_[offset], value, bytes);
}

void SharedMemory::end_copy(const Thread& thread, int64_t offset, int64_t bytes, Site site) {
  const Stamp mine = stamp_of(thread, site);
  for (int64_t i = offset; i < offset + bytes; ++i) bytes_[i].writer = mine;
}

}  // namespace sim
