#include "running_stats.h"

#include <algorithm>

#include "element_types.h"

namespace onnx_cbp {

bool RunningStats(int stats_type, int64_t channels, double momentum, bool unbiased, const void* running,
                  const void* batch, const int64_t* count, void* updated) {
  const double elements = static_cast<double>(*count);
  const double factor = unbiased ? elements / std::max(elements - 1.0, 1.0) : 1.0;
  return DispatchStatistics(stats_type, [&](auto u) {
    using U = decltype(u);
    const U* before = static_cast<const U*>(running);
    const U* observed = static_cast<const U*>(batch);
    U* after = static_cast<U*>(updated);
    for (int64_t c = 0; c < channels; ++c) {
      after[c] = *count == 0 ? before[c]
                             : static_cast<U>(static_cast<double>(before[c]) * momentum +
                                              static_cast<double>(observed[c]) * factor * (1.0 - momentum));
    }
  });
}

}  // namespace onnx_cbp
