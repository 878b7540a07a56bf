// Kernels that work on channels, not on elements.
#pragma once

#include "../elements/accumulate.h"
#include "../elements/finish.h"
#include "plan.h"

namespace onnx_cbp::cuda {

// Calls f(channel) for every channel, each on its own thread.
template <typename F>
struct ForEachChannel {
  static constexpr int kThreads = 128;
  static constexpr int kBlocksResident = 1;

  F f;
  int64_t channels;

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    block.ForEachThread([&](int thread) {
      const int64_t channel = block.index() * kThreads + thread;
      if (channel < channels) f(channel);
    });
  }
};

template <typename F>
void QueueForEachChannel(Queue* queue, int64_t channels, const F& f) {
  constexpr int kThreads = ForEachChannel<F>::kThreads;
  queue->Launch(ForEachChannel<F>{f, channels}, channels / kThreads + (channels % kThreads != 0 ? 1 : 0));
}

// Merges the partial sums of a channel, one block per channel, and finishes it. Division is Planes or Tiles.
template <typename Finish, typename Division>
struct MergePartials {
  static constexpr int kThreads = 128;
  static constexpr int kBlocksResident = 4;
  using Merged = typename Finish::Merged;

  Finish finish;
  Division division;
  const typename Merged::Partial* partials;
  typename Finish::Coefficients* coefficients;  // of every channel; null if they are not wanted

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    const int64_t channel = block.index();
    typename Block::template PerThread<Merged> merged;
    block.ForEachThread([&](int thread) { merged[thread] = MergeFrom(thread, channel); });
    const Merged total = block.Reduce(merged, [](const Merged& a, const Merged& b) { return Merged::Merge(a, b); });
    block.ForEachThread([&](int thread) {
      if (thread != 0) return;
      const typename Finish::Coefficients made = finish(channel, total);
      if constexpr (!std::is_same_v<typename Finish::Coefficients, NoCoefficients>) {
        if (coefficients != nullptr) coefficients[channel] = made;
      }
    });
  }

 private:
  // Merges every kThreads-th partial sum of a channel, from `first` on.
  ONNX_CBP_DEVICE Merged MergeFrom(int first, int64_t channel) const {
    constexpr int kUnroll = 4;
    const int64_t entries = division.partials_of_channel();
    Merged sum;
    for (int64_t i = first; i < entries; i += kUnroll * kThreads) {
      Batch<typename Merged::Partial, kUnroll> read;
      for (int u = 0; u < kUnroll; ++u) {
        if (i + u * kThreads < entries) read[u] = partials[division.partial(channel, i + u * kThreads)];
      }
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t entry = i + u * kThreads;
        if (entry < entries) {
          sum = Merged::Merge(sum, Merged::From(read[u], static_cast<double>(division.count(channel, entry))));
        }
      }
    }
    return sum;
  }
};

// Finishes a channel without elements.
template <typename Finish>
struct FinishEmpty {
  Finish finish;
  ONNX_CBP_DEVICE void operator()(int64_t channel) const { finish(channel, typename Finish::Merged{}); }
};

}  // namespace onnx_cbp::cuda
