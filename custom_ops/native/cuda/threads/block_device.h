// A block of threads on the device.
#pragma once

#include "block.h"

namespace onnx_cbp::cuda {

// The alignment of shared memory, in bytes.
constexpr int kSharedAlignment = 16;

template <int kThreadCount>
class Block {
 public:
  static constexpr int kThreads = kThreadCount;

  // A value of which every thread has its own, kept between phases.
  template <typename V>
  class PerThread {
   public:
    __device__ __forceinline__ V& operator[](int) { return value_; }
    __device__ __forceinline__ const V& operator[](int) const { return value_; }

   private:
    V value_{};
  };

  __device__ __forceinline__ Block(int64_t first, unsigned char* shared)
      : index_(first + static_cast<int64_t>(blockIdx.x)), shared_(shared) {}

  // The number of this block.
  __device__ __forceinline__ int64_t index() const { return index_; }

  // The dynamic shared memory, of the size that the launch asked for.
  template <typename V>
  __device__ __forceinline__ V* Shared() const {
    return reinterpret_cast<V*>(shared_);
  }

  template <typename F>
  __device__ __forceinline__ void ForEachThread(F&& f) const {
    f(static_cast<int>(threadIdx.x));
    __syncthreads();
  }

  // Merges the values of all threads in the order of ForEachLevel: first of each warp, then of the warps. Every thread
  // gets the result.
  template <typename V, typename Merge>
  __device__ __forceinline__ V Reduce(const PerThread<V>& values, Merge&& merge) const {
    constexpr int kWarps = kThreads / kWarp;
    __shared__ alignas(kSharedAlignment) unsigned char storage[kWarps * sizeof(V)];
    V* of_warps = reinterpret_cast<V*>(storage);
    V value = values[0];
    ForEachLevel<kWarp>([&](int offset) { value = merge(value, FromLane(value, offset)); });
    if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
    __syncthreads();
    V all[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all[w] = of_warps[w];
    __syncthreads();  // the storage may be written again
    return ReduceArray<kWarps>(all, merge);
  }

 private:
  template <typename V>
  __device__ static __forceinline__ V FromLane(const V& value, int offset) {
    static_assert(sizeof(V) % sizeof(uint32_t) == 0, "lanes exchange words");
    uint32_t words[sizeof(V) / sizeof(uint32_t)];
    memcpy(words, &value, sizeof(V));
#pragma unroll
    for (uint32_t& word : words) word = __shfl_down_sync(0xffffffffu, word, offset);
    V other;
    memcpy(&other, words, sizeof(V));
    return other;
  }

  int64_t index_;
  unsigned char* shared_;
};

}  // namespace onnx_cbp::cuda
