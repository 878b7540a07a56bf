// Both passes in one: a channel whose elements fit into shared memory is read once, summed, finished and written. Sums
// are made in the parts of the plan and merged as MergePartials does, so that the results are the bits of two passes:
// which of both is taken depends on the GPU.
#pragma once

#include "gather.h"
#include "map.h"
#include "plan.h"

namespace onnx_cbp::cuda {

template <typename Gather, typename Finish, typename Map, int kWidth>
struct OnePass {
  static constexpr int kThreads = cuda::kThreads;
  static constexpr int kBlocksResident = kResident<Gather>;
  using Kept = typename Gather::template Kept<kWidth>;
  using Coefficients = typename Finish::Coefficients;
  using Merged = typename Finish::Merged;

  Gather gather;
  Finish finish;
  Map map;
  Planes planes;

  // The coefficients, then the sums of parts, then what was kept of the units.
  static constexpr int kMostParts = kWarp;  // MergePartials has these in one warp, too
  static constexpr int64_t kForCoefficients = 64, kHead = kForCoefficients + kMostParts * sizeof(Pair);
  static_assert(sizeof(Coefficients) <= kForCoefficients, "coefficients have their place");
  static int64_t Shared(const Planes& planes) { return kHead + planes.units() * static_cast<int64_t>(sizeof(Kept)); }

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    const int64_t channel = block.index(), units = planes.units();
    Coefficients* const made = block.template Shared<Coefficients>();
    Pair* const partials = reinterpret_cast<Pair*>(block.template Shared<unsigned char>() + kForCoefficients);
    Kept* const all = reinterpret_cast<Kept*>(block.template Shared<unsigned char>() + kHead);
    for (int64_t part = 0; part < planes.parts; ++part) {
      const int64_t begin = part * planes.per_part;
      const int64_t end = begin + planes.per_part < units ? begin + planes.per_part : units;
      const typename Gather::Channel of = PrepareChannel(block, gather, planes, channel, begin, end);
      typename Block::template PerThread<TermSums> sums;
      block.ForEachThread([&](int thread) {
        sums[thread] = GatherUnits<kWidth>(gather, planes, channel, begin + thread, end, of,
                                           [&](int64_t unit, const Kept& kept) { all[unit] = kept; });
      });
      const TermSums total = block.Reduce(sums, [](const TermSums& a, const TermSums& b) { return a + b; });
      block.ForEachThread([&](int thread) {
        if (thread != 0) return;
        partials[part] = gather.Partial(total, of, static_cast<double>((end - begin) * kWidth));
      });
    }
    typename Block::template PerThread<Merged> merged;
    block.ForEachThread([&](int thread) {
      if (thread >= planes.parts) return;
      const double count = static_cast<double>(planes.count(channel, thread));
      merged[thread] = Merged::Merge(Merged{}, Merged::From(partials[thread], count));
    });
    const Merged total = block.Reduce(merged, [](const Merged& a, const Merged& b) { return Merged::Merge(a, b); });
    block.ForEachThread([&](int thread) {
      if (thread == 0) *made = finish(channel, total);
    });
    block.ForEachThread([&](int thread) {
      const Coefficients coefficients = *made;
      const Same<Coefficients> coefficients_of{coefficients};
      if (thread >= units) return;
      PlaneWalk walk(planes, channel, thread);
      for (int64_t unit = thread; unit < units; unit += kThreads) {
        StoreVector(MakeVector<kWidth>(map, all[unit], coefficients_of), map.out + walk.at * kWidth);
        walk.Step(planes);
      }
    });
  }
};

}  // namespace onnx_cbp::cuda
