#include "launch.h"

#include <algorithm>
#include <mutex>

namespace sim {
namespace {

constexpr int64_t kMaxSharedBytes = 227 * 1024;
constexpr int kMaxThreads = 1024;
constexpr int kMaxCluster = 16;
constexpr int kSmThreads = 256;  // that an SM has registers for where each has as many as it may have
constexpr int kMaxBlocksYZ = 65535;
constexpr int64_t kMostBlocks = 1 << 24;                                   // not CUDA's limit, but the simulator's
constexpr int kSuccess = 0, kInvalidValue = 1, kInvalidConfiguration = 9;  // of cudaError_t

std::mutex one_grid;
Random seeds;
int max_resident_blocks = 0;
int sms = 0;
int64_t num_launches = 0;
int64_t most_shared_bytes = 0;

}  // namespace

int launch(const Shape& shape, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_grid);
  const auto& [x, y, z] = shape.blocks;
  if (x < 1 || y < 1 || z < 1 || y > kMaxBlocksYZ || z > kMaxBlocksYZ) return kInvalidConfiguration;
  if (shape.threads < 1 || shape.threads > kMaxThreads) return kInvalidConfiguration;
  if (shape.shared_bytes < 0 || shape.shared_bytes > kMaxSharedBytes) return kInvalidValue;
  if (shape.cluster < 1 || shape.cluster > kMaxCluster || x % shape.cluster) return kInvalidConfiguration;
  const int64_t blocks = static_cast<int64_t>(x) * y * z;
  if (blocks > kMostBlocks) throw Fault("a grid of more blocks than the simulator takes");
  const int room = std::min(kMaxResidentBlocks, kMaxResidentThreads / shape.threads);
  const int given = sms ? sms * std::max(1, kSmThreads / shape.threads) : max_resident_blocks;
  if (shape.together && blocks > (given ? std::min(given, room) : room)) return kTooManyBlocks;
  if (max_resident_blocks && shape.cluster > max_resident_blocks) return kTooManyBlocks;
  ++num_launches;
  most_shared_bytes = std::max(most_shared_bytes, shape.shared_bytes);
  Machine grid(shape, body, seeds.next(), max_resident_blocks);
  try {
    grid.run();
  } catch (...) {
    machine = nullptr;
    self = nullptr;
    throw;
  }
  machine = nullptr;
  return kSuccess;
}

void set_seed(uint64_t seed) { seeds = Random(seed); }
void set_max_resident_blocks(int blocks) { max_resident_blocks = blocks; }
void set_num_sms(int number) { sms = number; }
int num_sms() { return sms ? sms : 132; }
int64_t launches() { return num_launches; }
int64_t max_shared_bytes() { return most_shared_bytes; }
void reset_counts() { num_launches = most_shared_bytes = 0; }

}  // namespace sim

void sim_set_seed(uint64_t seed) { sim::set_seed(seed); }
void sim_set_max_resident_blocks(int blocks) { sim::set_max_resident_blocks(blocks); }
void sim_set_num_sms(int number) { sim::set_num_sms(number); }
void sim_skip_barrier(const char* file_name, int line) { sim::skip_barrier(file_name, line); }
void sim_lose_messages(const char* file_name, int line) { sim::lose_messages(file_name, line); }
void sim_watch_waits(bool watch) { sim::watch_waits(watch); }
void sim_starve(int what, int number) { sim::starve({static_cast<sim::Starved::What>(what), number}); }
bool sim_found_who_starves() { return sim::found_who_starves(); }
int64_t sim_launches() { return sim::launches(); }
int64_t sim_max_shared_bytes() { return sim::max_shared_bytes(); }
void sim_reset_counts() { sim::reset_counts(); }
