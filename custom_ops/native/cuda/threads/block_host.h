// A block of threads on the host, where they run one after the other.
#pragma once

#include "block.h"
#include "host_device.h"
#if defined(ONNX_CBP_HOST_PHASES)  // a test's own phases, with threads that run at the same time
#include ONNX_CBP_HOST_PHASES
#endif

namespace onnx_cbp::cuda {

#if !defined(ONNX_CBP_HOST_PHASES)
// Calls f(thread) for every thread. Forwards, or backwards if the host's device is set so: then a phase in which one
// thread needs what another writes gives other results.
template <int kThreads, typename F>
void RunPhase(F&& f) {
  const bool backwards = HostDevice().backwards;
  for (int i = 0; i < kThreads; ++i) f(backwards ? kThreads - 1 - i : i);
}
#endif

template <int kThreadCount>
class Block {
 public:
  static constexpr int kThreads = kThreadCount;

  template <typename V>
  class PerThread {
   public:
    V& operator[](int thread) { return values_[thread]; }
    const V& operator[](int thread) const { return values_[thread]; }

   private:
    V values_[kThreads] = {};
  };

  Block(int64_t index, unsigned char* shared) : index_(index), shared_(shared) {}

  int64_t index() const { return index_; }

  template <typename V>
  V* Shared() const {
    return reinterpret_cast<V*>(shared_);
  }

  template <typename F>
  void ForEachThread(F&& f) const {
    RunPhase<kThreads>(f);
  }

  template <typename V, typename Merge>
  V Reduce(const PerThread<V>& values, Merge&& merge) const {
    constexpr int kWarps = kThreads / kWarp;
    V of_warps[kWarps];
    for (int w = 0; w < kWarps; ++w) {
      V lanes[kWarp];
      for (int lane = 0; lane < kWarp; ++lane) lanes[lane] = values[w * kWarp + lane];
      of_warps[w] = ReduceArray<kWarp>(lanes, merge);
    }
    return ReduceArray<kWarps>(of_warps, merge);
  }

 private:
  int64_t index_;
  unsigned char* shared_;
};

}  // namespace onnx_cbp::cuda
