#include "channel_normalize.h"

#include <cmath>

#include "blocks/normalize.h"
#include "caches.h"
#include "vectors.h"

namespace onnx_cbp {

bool ChannelNormalize(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                      const void* x, const void* scale, const void* b, const void* mean, const void* var, void* y) {
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using U = decltype(u);
    using V = ComputeType<T, U>;
    const auto value = [](const void* vector, size_t c) {
      return static_cast<double>(static_cast<const U*>(vector)[c]);
    };
    std::vector<NormalizeCoefficients<V>> all(static_cast<size_t>(layout.channels));
    for (size_t c = 0; c < all.size(); ++c) {
      const double inv_std = 1.0 / std::sqrt(value(var, c) + epsilon);
      all[c] = MakeNormalizeCoefficients<V>(value(mean, c), inv_std, value(scale, c), value(b, c));
    }
    const Partition partition = Partition::OfMap(layout);
    const Output<T> out{static_cast<T*>(y), WritesPastCaches(layout, sizeof(T), 2 * layout.size() * sizeof(T))};
    executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Block block = partition.block(task);
      NormalizeBlock(layout, block, all.data(), static_cast<const T*>(x), false, out);
    });
  });
}

}  // namespace onnx_cbp
