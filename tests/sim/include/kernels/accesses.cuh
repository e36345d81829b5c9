// The twin of csrc/kernels/accesses.cuh. What the functions promise stands in the original.
#pragma once

#include "kernels/cluster_primitives.cuh"

namespace lstm_fused {

template <class V>
V load_global_if(bool wanted, const V* p, Site site = Site::here()) {
  return wanted ? load_global(p, site) : V{};
}
template <class V>
void store_global_if(bool wanted, V* p, V value, Site site = Site::here()) {
  if (wanted) store_global(p, value, site);
}

}  // namespace lstm_fused
