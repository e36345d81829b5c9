// Every primitive once, for compilers alone: what the two headers of each name have to have in common.
#include "kernels/accesses.cuh"
#include "kernels/cluster_primitives.cuh"

namespace lstm_fused {

struct EveryPrimitive {
  float* floats;
  uint32_t* words;
  uint64_t* pairs;
  Vector16* vectors;
  int parity;
};

LSTM_FUSED_DEVICE void warps_and_numbers(const EveryPrimitive& p) {
  const uint32_t a[4] = {p.words[0], p.words[1], p.words[2], round_to_tf32(p.words[3])}, b[2] = {p.words[4], 0};
  float d[4] = {};
  mma_float16(d, a, b);
  p.words[5] = round_two<float16>(d[0], d[1]) + round_two<bfloat16>(d[2], d[3]);
  mma_bfloat16(d, a, b);
  mma_tf32(d, a, b);
  const float x = to_accumulator(round_to<float16>(d[0])) + to_accumulator(round_to<bfloat16>(d[1])) +
                  to_accumulator(round_to<float>(d[2])) + exp2_approximate(bits_to_float(float_to_bits(d[3])));
  p.floats[thread_index()] = shuffle_xor(reciprocal_approximate(tanh_approximate(x)), 1);
  warp_barrier();
  if (any_lane(lane_index() == warp_index())) p.floats[block_index().x] = 0;
}

LSTM_FUSED_DEVICE void blocks(const EveryPrimitive& p) {
  Vector16* shared = reinterpret_cast<Vector16*>(shared_memory()) + thread_index();
  copy_async_16(shared, p.vectors + thread_index());
  close_copies();
  wait_for_copies<0>();
  block_barrier();
  store_shared(shared, load_shared(shared));
  named_barrier(1, num_threads());
  if (warp_index() == 0)
    named_barrier(2, num_threads());
  else
    named_arrive(2, num_threads());
}

LSTM_FUSED_DEVICE void clusters(const EveryPrimitive& p) {
  MBarrier* barrier = reinterpret_cast<MBarrier*>(shared_memory());
  mbarrier_init(barrier, 2);
  mbarrier_fence_init();
  cluster_arrive();
  cluster_wait();
  const int rank = (cluster_rank() + 1) % cluster_size();
  const RemoteShared<MBarrier> remote = map_shared(barrier, rank);
  store_remote(map_shared(p.words, rank) + 1, p.words[0]);
  store_remote(map_shared(p.pairs, rank) + 1, p.pairs[0]);
  store_remote(map_shared(p.vectors, rank) + 1, p.vectors[0]);
  store_remote_async(map_shared(p.words, rank), p.words[0], remote);
  store_remote_async(map_shared(p.pairs, rank), p.pairs[0], remote);
  store_remote_async(map_shared(p.vectors, rank), p.vectors[0], remote);
  mbarrier_arrive(barrier);
  mbarrier_arrive_expect_bytes(barrier, 28);
  mbarrier_arrive_remote(remote);
  mbarrier_wait(barrier, p.parity);
}

template <int n>
LSTM_FUSED_DEVICE void exchange_words(Words<n>* words) {
  store_relaxed_if(lane_index() == 0, words, load_relaxed(words + 1));
}
LSTM_FUSED_DEVICE void exchange(const EveryPrimitive& p) {
  store_global(p.words, load_global(p.words + 1));
  store_global_if(lane_index() == 0, p.words, load_global_if(p.parity == 0, p.words + 1));
  exchange_words(reinterpret_cast<Words<1>*>(p.words));
  exchange_words(reinterpret_cast<Words<2>*>(p.pairs));
  exchange_words(p.vectors);
  fence_gpu();
  spin_wait([=] { return load_relaxed_within<16>(p.parity, reinterpret_cast<const char*>(p.vectors)).word[0] != 0; });
}

LSTM_FUSED_KERNEL(256, 1) every_primitive_kernel(LSTM_FUSED_PARAMS EveryPrimitive p) {
  warps_and_numbers(p);
  blocks(p);
  clusters(p);
  exchange(p);
}

int launch_every_primitive(void* stream, const EveryPrimitive& p) {
  return launch_kernel(every_primitive_kernel, Grid{{2, 1, 1}, 256, 4096, 2}, stream, p);
}

}  // namespace lstm_fused
