// Both passes in one: a channel whose elements fit into shared memory is read once, summed, finished and written.
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
  Planes planes;  // in one part

  // The coefficients, then what was kept of the units.
  static constexpr int64_t kHead = 64;
  static_assert(sizeof(Coefficients) <= kHead, "coefficients have their place");
  static int64_t Shared(const Planes& planes) { return kHead + planes.units() * static_cast<int64_t>(sizeof(Kept)); }

  template <typename Block>
  ONNX_CBP_DEVICE void operator()(Block& block) const {
    const int64_t channel = block.index(), units = planes.units();
    Coefficients* const made = block.template Shared<Coefficients>();
    Kept* const all = reinterpret_cast<Kept*>(block.template Shared<unsigned char>() + kHead);
    const typename Gather::Channel of = PrepareChannel(block, gather, planes, channel, 0, units);
    typename Block::template PerThread<TermSums> sums;
    block.ForEachThread([&](int thread) {
      sums[thread] = GatherUnits<kWidth>(gather, planes, channel, thread, units, of,
                                         [&](int64_t unit, const Kept& kept) { all[unit] = kept; });
    });
    const TermSums total = block.Reduce(sums, [](const TermSums& a, const TermSums& b) { return a + b; });
    block.ForEachThread([&](int thread) {
      if (thread != 0) return;
      const double count = static_cast<double>(units * kWidth);
      *made = finish(channel, Merged::From(gather.Partial(total, of, count), count));
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
