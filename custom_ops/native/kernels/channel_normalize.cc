#include "channel_normalize.h"

#include <cmath>
#include <vector>

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
ONNX_CBP_CLONES void NormalizeBlock(const Layout& layout, const Block& block, const Coefficients<V>* channels,
                                    const T* x, T* y) {
  const auto element = [](V value, const Coefficients<V>& k) { return (value - k.center) * k.slope + k.offset; };
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

template <typename T, typename V>
void Run(const Executor& executor, const Layout& layout, double epsilon, const T* x, const std::vector<double>& scale,
         const std::vector<double>& b, const std::vector<double>& mean, const std::vector<double>& var, T* y) {
  std::vector<Coefficients<V>> all(static_cast<size_t>(layout.channels));
  for (size_t c = 0; c < all.size(); ++c) {
    const double slope = scale[c] / std::sqrt(var[c] + epsilon);
    const V center = static_cast<V>(mean[c]);
    // What rounding takes from the mean goes into the offset.
    const double rest = mean[c] - static_cast<double>(center);
    const double offset = rest == 0.0 ? b[c] : b[c] - rest * slope;
    all[c] = {center, static_cast<V>(slope), static_cast<V>(offset)};
  }
  const Partition partition(layout);
  executor.ForEach(partition.tasks(), [&](int64_t task) {
    const Block block = partition.block(task);
    NormalizeBlock(layout, block, all.data() + block.channel_begin, x, y);
  });
}

}  // namespace

bool Normalize(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
               const void* x, const std::vector<double>& scale, const std::vector<double>& b,
               const std::vector<double>& mean, const std::vector<double>& var, void* y) {
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    Run<T, ComputeType<T, decltype(u)>>(executor, layout, epsilon, static_cast<const T*>(x), scale, b, mean, var,
                                        static_cast<T*>(y));
  });
}

bool ChannelNormalize(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                      const void* x, const void* scale, const void* b, const void* mean, const void* var, void* y) {
  const auto wide = [&](const void* vector) { return ToDouble(stats_type, vector, layout.channels); };
  return Normalize(x_type, stats_type, executor, layout, epsilon, x, wide(scale), wide(b), wide(mean), wide(var), y);
}

}  // namespace onnx_cbp
