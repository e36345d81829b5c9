// Large pages for memory that nobody has touched yet.
#pragma once

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lstm_fused {

// Asks the system for pages of 2 MB or so, as NumPy does from 4 MB on: memory that is mapped anew for every call then
// has a hundredth of the page faults, and to read megabytes takes less looking up of small pages (a stream's step at
// B = 1 on one core of an AMD EPYC: H = 512 125 us, then 113; H = 1024 1234, then 774). A wish, no more.
inline void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  const int64_t address = reinterpret_cast<intptr_t>(memory), page = sysconf(_SC_PAGESIZE);
  const int64_t begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(end - begin), MADV_HUGEPAGE);
#endif
}

}  // namespace lstm_fused
