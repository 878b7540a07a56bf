#include "channel_normalize.h"

#include <cmath>
#include <vector>

#include "clones.h"
#include "traverse.h"

namespace onnx_cbp {
namespace {

template <typename V>
struct Coefficients {
  V center, slope, offset;
};

template <typename T, typename V>
ONNX_CBP_CLONES void NormalizeBlock(const Layout& layout, const Block& block,
                                    const Coefficients<V>* channels, const T* x, T* y) {
  const auto element = [](V value, const Coefficients<V>& k) {
    return (value - k.center) * k.slope + k.offset;
  };
  if (MapsByRow(layout)) {
    const auto row = RepeatForRow(layout, block, channels);
    ForEachRow(layout, block, [&](int64_t offset) {
      const T* in = x + offset;
      T* out = y + offset;
      for (size_t i = 0; i < row.size(); ++i) Store(element(Load(in[i]), row[i]), &out[i]);
    });
  } else {
    ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
      const Coefficients<V> k = channels[c];
      const T* in = x + offset;
      T* out = y + offset;
      for (int64_t i = 0; i < block.inner(); ++i) Store(element(Load(in[i]), k), &out[i]);
    });
  }
}

template <typename T, typename U>
void Run(const Executor& executor, const Layout& layout, double epsilon, const T* x, const U* scale,
         const U* b, const U* mean, const U* var, T* y) {
  using V = ComputeType<T, U>;
  std::vector<Coefficients<V>> all(static_cast<size_t>(layout.channels));
  for (size_t c = 0; c < all.size(); ++c) {
    const double std = std::sqrt(static_cast<double>(var[c]) + epsilon);
    all[c] = {static_cast<V>(mean[c]), static_cast<V>(static_cast<double>(scale[c]) / std),
              static_cast<V>(b[c])};
  }
  const Partition partition(layout);
  executor.ForEach(partition.tasks(), [&](int64_t task) {
    const Block block = partition.block(task);
    NormalizeBlock(layout, block, all.data() + block.channel_begin, x, y);
  });
}

}  // namespace

bool ChannelNormalize(int x_type, int stats_type, const Executor& executor, const Layout& layout,
                      double epsilon, const void* x, const void* scale, const void* b,
                      const void* mean, const void* var, void* y) {
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using U = decltype(u);
    Run(executor, layout, epsilon, static_cast<const T*>(x), static_cast<const U*>(scale),
        static_cast<const U*>(b), static_cast<const U*>(mean), static_cast<const U*>(var),
        static_cast<T*>(y));
  });
}

}  // namespace onnx_cbp
