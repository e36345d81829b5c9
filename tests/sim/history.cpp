#include "history.h"

#include <cstring>
#include <sstream>
#include <string>

#include "machine.h"

namespace sim {
namespace {

bool same(const History& a, const History& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

std::string text(const Place& place, int64_t byte) {
  std::ostringstream text;
  if (place.memory == Place::Memory::kShared) {
    text << "byte " << place.first + byte << " of shared memory";
  } else {
    text << "global memory at 0x" << std::hex << place.first + byte;
  }
  return text.str();
}

[[noreturn]] void race(const char* verb, Stamp other, const char* other_verb, Place place, int64_t byte, Site site) {
  const Thread* thread = machine->find_thread(static_cast<int>(other.thread));
  const std::string whom = !thread ? "an asynchronous store" : thread == self ? "it" : text(*thread);
  const std::string line = " (line " + std::to_string(other.line) + ")";
  const std::string what = std::string("race: ") + verb + " " + text(place, byte) + ", which " + whom;
  if (other.in_flight) fault(what + " is still copying to" + line, site);
  fault(what + " " + other_verb + line + " with no barrier in between", site);
}

}  // namespace

Stamp stamp_here(Site site, bool strong) {
  return {now, 0, static_cast<uint64_t>(self->number), static_cast<uint64_t>(site.line), strong};
}

bool ordered(Stamp stamp) {
  if (stamp.in_flight) return false;
  const int number = static_cast<int>(stamp.thread);
  if (number == self->number) return true;
  const Block& block = *self->block;
  const int index = number - block.first_number;
  if (index >= 0 && index < machine->shape().threads) {
    if (stamp.time <= block.known) return true;
    if (index / kWarpSize == self->index / kWarpSize && stamp.time <= self->warp->known) return true;
  }
  return self->learned && self->learned->covers(number, stamp.time);
}

void note_read(History* bytes, int64_t count, Time since, Stamp mine, Place place, Site site) {
  History before{}, after{};  // what is right for one byte of a value mostly holds for the next
  for (int64_t i = 0; i < count; ++i) {
    History& byte = bytes[i];
    if (i > 0 && same(byte, before)) {
      byte = after;
      continue;
    }
    before = byte;
    const bool both_strong = byte.writer.strong && mine.strong;
    if (byte.writer.time > since && !both_strong && !ordered(byte.writer)) {
      race("reads", byte.writer, "wrote", place, i, site);
    }
    // A reader ordered before this one needs no place: who is ordered after this one is ordered after it, too.
    const auto free = [&](Stamp reader) {
      return reader.time <= since || (reader.strong >= mine.strong && ordered(reader));
    };
    byte.readers[free(byte.readers[0]) ? 0 : free(byte.readers[1]) ? 1 : machine->random().below(2)] = mine;
    after = byte;
  }
}

void note_write(History* bytes, int64_t count, Time since, Stamp mine, Place place, Site site) {
  History before{};
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || !same(bytes[i], before)) {
      before = bytes[i];
      const auto conflicts = [&](Stamp other) {
        return other.time > since && !(other.strong && mine.strong) && !ordered(other);
      };
      if (conflicts(before.writer)) race("writes", before.writer, "wrote", place, i, site);
      for (const Stamp& reader : before.readers) {
        if (conflicts(reader)) race("writes", reader, "read", place, i, site);
      }
    }
    bytes[i] = {mine, {}};
  }
}

}  // namespace sim
