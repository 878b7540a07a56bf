#include "channel_backprop.h"

#include <algorithm>

#include "blocks/backprop.h"
#include "caches.h"
#include "vectors.h"

namespace onnx_cbp {

bool ChannelBackprop(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                     const void* x, const void* scale, const void* mean, const void* inv_std, const void* scale_grad,
                     const void* bias_grad, const int64_t* count, void* dx) {
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using U = decltype(u);
    using V = ComputeType<T, U>;
    const auto value = [](const void* vector, size_t c) {
      return static_cast<double>(static_cast<const U*>(vector)[c]);
    };
    const double elements = static_cast<double>(std::max<int64_t>(*count, 1));
    std::vector<BackpropCoefficients<V>> all(static_cast<size_t>(layout.channels));
    for (size_t c = 0; c < all.size(); ++c) {
      all[c] = MakeBackpropCoefficients<V>(value(scale, c), value(mean, c), value(inv_std, c), value(scale_grad, c),
                                           value(bias_grad, c), elements);
    }
    const Partition partition = Partition::OfMap(layout);
    const Output<T> out{static_cast<T*>(dx), WritesPastCaches(layout, sizeof(T), 3 * layout.size() * sizeof(T))};
    executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Block block = partition.block(task);
      BackpropBlock(layout, block, all.data(), static_cast<const T*>(dy), ReluOf<T, V>{}, static_cast<const T*>(x),
                    out);
    });
  });
}

}  // namespace onnx_cbp
