// What lanes of a warp and threads of a block come to together.
#include <cstring>

#include "machine.h"

namespace sim {

// Whether the calling thread is the last; it must have come to what the others came to.
bool Machine::arrive(Meeting& meeting, int expected, const char* name, Site site) {
  if (!meeting.arrived) {
    meeting = {name, site, 0};
  } else if (name != meeting.name || site.line != meeting.site.line || std::strcmp(site.file, meeting.site.file)) {
    fault(std::string("comes to ") + name + " while others wait for " + meeting.name + " at " + text(meeting.site),
          site);
  }
  if (++meeting.arrived < expected) return false;
  meeting.arrived = 0;
  return true;
}

void Machine::meet_warp(const char* name, Site site, void* deposit, Complete complete) {
  Thread& thread = *self;
  Warp& warp = *thread.warp;
  if (warp.num_threads < kWarpSize) {
    fault(std::string(name) + " in a warp of " + counted(warp.num_threads, "lane") + " of 32", site);
  }
  warp.deposits[thread.lane] = deposit;
  if (!arrive(warp.meeting, kWarpSize, name, site)) {
    wake_spinning(warp);  // a warp looks as one: what one lane looks at again is there for all of them
    return wait(name, site);
  }
  complete(warp, warp.deposits);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lane != thread.lane) make_ready(warp.threads[lane]);
  }
  preempt();
}

void share_knowledge(Thread* threads, int count) {
  ClockPointer all;
  for (int i = 0; i < count; ++i) {
    if (i == 0 || threads[i].learned != threads[i - 1].learned) all = join(all, threads[i].learned);
  }
  if (!all) return;
  for (int i = 0; i < count; ++i) threads[i].learned = all;
}

void Machine::meet_block(const char* name, Site site) {
  Block& block = *self->block;
  if (!arrive(block.barrier, shape_.threads, name, site)) return wait(name, site);
  before_others_go_on();
  block.known = now++;
  share_knowledge(block.threads.data(), shape_.threads);
  for (Thread& thread : block.threads) {
    if (&thread != self) make_ready(thread, Delay::kBarrier);
  }
  preempt(Delay::kBarrier);
}

}  // namespace sim
