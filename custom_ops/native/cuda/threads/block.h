// What a kernel may know about the threads that run it. A kernel is a callable on a block, written in phases. In
// ForEachThread every thread does its part; after it, all threads see what was written to shared memory. On the device
// a thread runs its own part and waits at a barrier; on the host a loop runs the parts one after the other. So the same
// source runs on both, with the same order of additions. All threads of a block must reach every phase.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ONNX_CBP_DEVICE __device__ __forceinline__
#else
#define ONNX_CBP_DEVICE inline
#endif

namespace onnx_cbp::cuda {

constexpr int kWarp = 32;

// The order in which kSize values are reduced. Calls f(offset) for every level, in which value i absorbs value i +
// offset, for every i < offset. Value 0 is the result.
template <int kSize, typename F>
ONNX_CBP_DEVICE void ForEachLevel(F&& f) {
  static_assert((kSize & (kSize - 1)) == 0, "the tree is a binary one");
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int offset = kSize / 2; offset > 0; offset /= 2) f(offset);
}

template <int kSize, typename V, typename Merge>
ONNX_CBP_DEVICE V ReduceArray(V (&values)[kSize], Merge&& merge) {
  ForEachLevel<kSize>([&](int offset) {
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int i = 0; i < offset; ++i) values[i] = merge(values[i], values[i + offset]);
  });
  return values[0];
}

}  // namespace onnx_cbp::cuda

#if defined(__CUDACC__)
#include "block_device.h"
#else
#include "block_host.h"
#endif
