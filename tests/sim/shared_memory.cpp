#include "shared_memory.h"

#include <cstring>
#include <string>

#include "machine.h"

namespace sim {
constexpr Place::Memory kShared = Place::Memory::kShared;

void SharedMemory::reset(int64_t bytes) {
  size_ = bytes;
  start_ = now++;
  if (static_cast<int64_t>(data_.size()) < bytes) {
    data_.resize(bytes);
    histories_.resize(bytes);
  }
}

void SharedMemory::check(int64_t offset, int64_t bytes, const char* verb, Site site) const {
  const bool inside = offset >= 0 && offset + bytes <= size_;
  if (inside && offset % bytes == 0) return;
  fault(std::string(verb) + " " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) + " of " +
            std::to_string(size_) + " of shared memory: " + (inside ? "misaligned" : "out of bounds"),
        site);
}

void SharedMemory::load(int64_t offset, void* value, int64_t bytes, Site site) {
  check(offset, bytes, "reads", site);
  for (int64_t i = offset; i < offset + bytes; ++i) {
    if (histories_[i].writer.time > start_) continue;
    fault("reads byte " + std::to_string(i) + " of shared memory, never written", site);
  }
  note_read(&histories_[offset], bytes, start_, stamp_here(site), {kShared, offset}, site);
  std::memcpy(value, &data_[offset], bytes);
}

void SharedMemory::store(int64_t offset, const void* value, int64_t bytes, Site site) {
  check(offset, bytes, "writes", site);
  note_write(&histories_[offset], bytes, start_, stamp_here(site), {kShared, offset}, site);
  std::memcpy(&data_[offset], value, bytes);
}

void SharedMemory::begin_write(int64_t offset, int64_t bytes, Site site) {
  check(offset, bytes, "writes", site);
  Stamp mine = stamp_here(site);
  mine.in_flight = 1;
  note_write(&histories_[offset], bytes, start_, mine, {kShared, offset}, site);
}

void SharedMemory::land(int64_t offset, const void* value, int64_t bytes) { std::memcpy(&data_[offset], value, bytes); }

void SharedMemory::end_write(int64_t offset, int64_t bytes, Stamp as) {
  for (int64_t i = offset; i < offset + bytes; ++i) histories_[i] = {as, {}};
}

}  // namespace sim
