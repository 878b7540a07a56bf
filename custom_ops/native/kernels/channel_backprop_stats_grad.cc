#include "channel_backprop_stats_grad.h"

#include "channel_backprop_stats.h"
#include "clones.h"
#include "traverse.h"
#include "vectors.h"

namespace onnx_cbp {
namespace {

template <typename V>
struct Coefficients {
  V center, slope, offset;
};

template <typename T, typename V>
ONNX_CBP_CLONES void GradBlock(const Layout& layout, const Block& block, const Coefficients<V>* channels, const T* x,
                               const T* dy, T* dx, T* d_dy) {
  const auto element = [&](int64_t i, const Coefficients<V>& k) {
    Store(k.slope * Load(dy[i]), &dx[i]);
    Store(k.slope * (Load(x[i]) - k.center) + k.offset, &d_dy[i]);
  };
  if (MapsByRow(layout)) {
    const auto row = RepeatForRow(layout, block, channels);
    ForEachRow(layout, block, [&](int64_t offset) {
      for (size_t i = 0; i < row.size(); ++i) element(offset + static_cast<int64_t>(i), row[i]);
    });
  } else {
    ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
      const Coefficients<V> k = channels[c];
      for (int64_t i = 0; i < block.inner(); ++i) element(offset + i, k);
    });
  }
}

}  // namespace

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
    std::vector<Coefficients<V>> all(channels);
    for (size_t c = 0; c < channels; ++c) {
      all[c] = {static_cast<V>(center[c]), static_cast<V>(a[c] * s[c]), static_cast<V>(b[c])};
    }
    const Partition partition(layout);
    executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Block block = partition.block(task);
      GradBlock(layout, block, all.data() + block.channel_begin, static_cast<const T*>(x), static_cast<const T*>(dy),
                static_cast<T*>(dx), static_cast<T*>(d_dy));
    });
  });
}

}  // namespace onnx_cbp
