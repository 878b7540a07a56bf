// RunningStats: moves a running statistic towards that of a batch.
#include "running_stats.h"

#include "../element_types.h"
#include "../op.h"

namespace onnx_cbp {

bool MoveRunning(int stats_type, int64_t channels, const RunningRule& rule, int64_t elements, const void* running,
                 const void* batch, void* updated) {
  return DispatchStatistics(stats_type, [&](auto u) {
    using U = decltype(u);
    const U* before = static_cast<const U*>(running);
    const U* observed = static_cast<const U*>(batch);
    U* after = static_cast<U*>(updated);
    for (int64_t c = 0; c < channels; ++c) {
      after[c] = static_cast<U>(rule.Updated(static_cast<double>(before[c]), static_cast<double>(observed[c]),
                                             static_cast<double>(elements)));
    }
  });
}

// updated = running * momentum + batch * (1 - momentum). If unbiased, batch is first multiplied by count / (count - 1).
// If count is 0, updated is running.
bool RunningStats(const VectorsCall& call, const RunningStatsArguments& a) {
  return MoveRunning(call.stats_type, call.channels, {a.momentum, a.unbiased != 0}, *a.count.As<int64_t>(),
                     a.running.data(), a.batch.data(), a.updated.data());
}

}  // namespace onnx_cbp
