#include "running_stats.h"

#include "element_types.h"

namespace onnx_cbp {

bool RunningStats(int stats_type, int64_t channels, double momentum, bool unbiased, const void* running,
                  const void* batch, const int64_t* count, void* updated) {
  const double elements = static_cast<double>(*count);
  const RunningRule rule{momentum, unbiased};
  return DispatchStatistics(stats_type, [&](auto u) {
    using U = decltype(u);
    const U* before = static_cast<const U*>(running);
    const U* observed = static_cast<const U*>(batch);
    U* after = static_cast<U*>(updated);
    for (int64_t c = 0; c < channels; ++c) {
      after[c] =
          static_cast<U>(rule.Updated(static_cast<double>(before[c]), static_cast<double>(observed[c]), elements));
    }
  });
}

}  // namespace onnx_cbp
