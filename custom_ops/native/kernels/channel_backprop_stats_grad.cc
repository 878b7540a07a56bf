#include "channel_backprop_stats_grad.h"

#include "blocks/normalize.h"
#include "caches.h"
#include "channel_backprop_stats.h"
#include "vectors.h"

namespace onnx_cbp {
bool ChannelBackpropStatsGrad(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x,
                              const void* mean, const void* inv_std, const void* dy, const void* d_scale_grad,
                              const void* d_bias_grad, void* dx, void* d_mean, void* d_inv_std, void* d_dy) {
  const size_t channels = static_cast<size_t>(layout.channels);
  const auto wide = [&](const void* vector) { return ToDouble(stats_type, vector, layout.channels); };
  const std::vector<double> center = wide(mean), s = wide(inv_std), a = wide(d_scale_grad), b = wide(d_bias_grad);
  const std::vector<double> ones(channels, 1.0);
  std::vector<double> products(channels), gradients(channels);
  if (!ChannelBackpropStats(x_type, kDouble, executor, layout, x, center.data(), ones.data(), dy, products.data(),
                            gradients.data())) {
    return false;
  }
  for (size_t c = 0; c < channels; ++c) {
    products[c] *= a[c];
    gradients[c] *= -a[c] * s[c];
  }
  FromDouble(gradients, stats_type, d_mean);
  FromDouble(products, stats_type, d_inv_std);
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    std::vector<NormalizeCoefficients<V>> of_dy(channels), of_x(channels);
    for (size_t c = 0; c < channels; ++c) {
      of_dy[c] = {V(0), static_cast<V>(a[c] * s[c]), V(0)};
      of_x[c] = {static_cast<V>(center[c]), of_dy[c].slope, static_cast<V>(b[c])};
    }
    const Partition partition(layout);
    const bool stream = WritesPastCaches(layout, sizeof(T), 4 * layout.size() * sizeof(T));
    executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Block block = partition.block(task);
      NormalizeBlock(layout, block, of_dy.data(), static_cast<const T*>(dy), false, {static_cast<T*>(dx), stream});
      NormalizeBlock(layout, block, of_x.data(), static_cast<const T*>(x), false, {static_cast<T*>(d_dy), stream});
    });
  });
}

}  // namespace onnx_cbp
