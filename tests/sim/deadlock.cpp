// The report where nobody can go on: who waits, where, and for what.
#include <algorithm>
#include <map>

#include "machine.h"

namespace sim {
namespace {

// "0-4, 6-31, 40"
std::string ranges(const std::vector<int>& ascending) {
  std::string result;
  for (size_t i = 0; i < ascending.size();) {
    size_t last = i;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    result += (i ? ", " : "") + std::to_string(ascending[i]);
    if (last > i) result += "-" + std::to_string(ascending[last]);
    i = last + 1;
  }
  return result;
}

}  // namespace

std::string Machine::deadlock() const {
  constexpr size_t kBlocksShown = 8;
  std::map<std::string, std::vector<std::string>> waiting;  // for what and where -> the threads of each block
  size_t ended = 0;
  for (const auto& cluster : clusters_) {
    if (!cluster->running) continue;
    for (const Block& block : cluster->blocks) {
      std::map<std::string, std::vector<int>> threads;
      for (const Thread& thread : block.threads) {
        const std::string what = thread.finished ? "" : thread.waits_for + (" at " + text(thread.waits_at));
        threads[what].push_back(thread.index);
      }
      ended += threads[""].size();
      threads.erase("");
      for (const auto& [what, indices] : threads) {
        waiting[what].push_back("block " + text(block.index) + " threads " + ranges(indices));
      }
    }
  }
  std::string report = "deadlock: no thread can move";
  for (const auto& [what, blocks] : waiting) {
    report += "\nin " + what + ": ";
    for (size_t i = 0; i < std::min(blocks.size(), kBlocksShown); ++i) report += (i ? "; " : "") + blocks[i];
    if (blocks.size() > kBlocksShown) report += "; and " + counted(blocks.size() - kBlocksShown, "more block");
  }
  if (ended) report += "\n" + counted(ended, "thread") + " of these blocks ended";
  if (!pending_.empty()) {
    report += "\n" + counted(pending_.size() * shape_.cluster, "block") + " had no room on the machine yet";
  }
  return report;
}

}  // namespace sim
