// Both passes in one: if the elements of a channel fit into shared memory, it is read once, summed, finished and
// written. Sums are computed in the parts of the plan, and merged in the order of MergePartials. So the results are bit
// for bit those of two passes, although the GPU decides which way is taken.
#pragma once

#include "gather.h"
#include "map.h"
#include "plan.h"

namespace onnx_cbp::cuda {

// For GatherUnits: keeps in shared memory what was read.
template <typename Kept>
struct KeepInShared {
  Kept* all;
  ONNX_CBP_DEVICE void operator()(int64_t unit, const Kept& kept) const { all[unit] = kept; }
};

// Each block works on one channel.
template <typename Gather, typename Finish, typename Map, int kWidth>
struct OnePass {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = kResident<Gather>;
  using Kept = typename Gather::template Kept<kWidth>;
  using Coefficients = typename Finish::Coefficients;
  using Merged = typename Finish::Merged;
  using Partial = typename Gather::Partial;

  Gather gather;
  Finish finish;
  Map map;
  Planes planes;

  // Shared memory has the coefficients, then the sums of the parts, then what was kept of the units.
  static constexpr int kMostParts = kWarp;  // MergePartials too has at most so many in one warp
  static constexpr int64_t kForCoefficients = 64, kHead = kForCoefficients + kMostParts * sizeof(Partial);
  static_assert(sizeof(Coefficients) <= kForCoefficients, "coefficients have their place");
  static int64_t Shared(const Planes& planes) { return kHead + planes.units() * static_cast<int64_t>(sizeof(Kept)); }

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    unsigned char* const shared = block.template Shared<unsigned char>();
    Coefficients* const coefficients = reinterpret_cast<Coefficients*>(shared);
    Partial* const partials = reinterpret_cast<Partial*>(shared + kForCoefficients);
    Kept* const all = reinterpret_cast<Kept*>(shared + kHead);
    for (int64_t part = 0; part < planes.parts; ++part) {
      GatherPart<kWidth>(block, gather, planes, block.index(), part, KeepInShared<Kept>{all}, partials + part);
    }
    MergeParts(block, partials, coefficients);
    block.ForEachThread([&](int thread) { Write(block.index(), thread, all, *coefficients); });
  }

 private:
  // One thread per part, in the order in which MergePartials merges them.
  template <typename Block>
  ONNX_CBP_DEVICE void MergeParts(Block& block, const Partial* partials, Coefficients* coefficients) const {
    typename Block::template PerThread<Merged> merged;
    block.ForEachThread([&](int thread) {
      if (thread >= planes.parts) return;
      const double count = static_cast<double>(planes.count(block.index(), thread));
      merged[thread] = Merged::Merge(Merged{}, Merged::From(partials[thread], count));
    });
    const Merged total = block.Reduce(merged, [](const Merged& a, const Merged& b) { return Merged::Merge(a, b); });
    block.ForEachThread([&](int thread) {
      if (thread == 0) *coefficients = finish(block.index(), total);
    });
  }

  // Writes every kThreads-th unit of the channel, from the thread's number on.
  ONNX_CBP_DEVICE void Write(int64_t channel, int thread, const Kept* all, Coefficients coefficients) const {
    const OneChannel<Coefficients> coefficients_of{coefficients};
    const int64_t units = planes.units();
    if (thread >= units) return;
    PlaneWalk walk(planes, channel, thread);
    for (int64_t unit = thread; unit < units; unit += kThreads) {
      StoreVector(MakeVector<kWidth>(map, all[unit], coefficients_of), map.out + walk.at * kWidth);
      walk.Step(planes);
    }
  }
};

}  // namespace onnx_cbp::cuda
