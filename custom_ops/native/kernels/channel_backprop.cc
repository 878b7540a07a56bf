#include "channel_backprop.h"

#include <vector>

#include "clones.h"
#include "traverse.h"
#include "vectors.h"

namespace onnx_cbp {
namespace {

template <typename V>
struct Coefficients {
  V center, through_var, through_mean, slope;
};

template <typename T, typename V>
ONNX_CBP_CLONES void BackpropBlock(const Layout& layout, const Block& block, const Coefficients<V>* channels,
                                   const T* dy, const T* x, T* dx) {
  const auto element = [](V dy_i, V x_i, const Coefficients<V>& k) {
    return k.slope * (dy_i - k.through_mean - (x_i - k.center) * k.through_var);
  };
  if (MapsByRow(layout)) {
    const auto row = RepeatForRow(layout, block, channels);
    ForEachRow(layout, block, [&](int64_t offset) {
      const T* dy_row = dy + offset;
      const T* x_row = x + offset;
      T* out = dx + offset;
      for (size_t i = 0; i < row.size(); ++i) Store(element(Load(dy_row[i]), Load(x_row[i]), row[i]), &out[i]);
    });
  } else {
    ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
      const Coefficients<V> k = channels[c];
      const T* dy_plane = dy + offset;
      const T* x_plane = x + offset;
      T* out = dx + offset;
      for (int64_t i = 0; i < block.inner(); ++i) Store(element(Load(dy_plane[i]), Load(x_plane[i]), k), &out[i]);
    });
  }
}

template <typename T, typename V>
void Run(const Executor& executor, const Layout& layout, const T* dy, const T* x, const std::vector<double>& scale,
         const std::vector<double>& mean, const std::vector<double>& inv_std, const std::vector<double>& scale_grad,
         const std::vector<double>& bias_grad, int64_t count, T* dx) {
  std::vector<Coefficients<V>> all(static_cast<size_t>(layout.channels));
  const double elements = static_cast<double>(std::max<int64_t>(count, 1));
  for (size_t c = 0; c < all.size(); ++c) {
    all[c] = {static_cast<V>(mean[c]), static_cast<V>(inv_std[c] * (scale_grad[c] / elements)),
              static_cast<V>(bias_grad[c] / elements), static_cast<V>(scale[c] * inv_std[c])};
  }
  const Partition partition(layout);
  executor.ForEach(partition.tasks(), [&](int64_t task) {
    const Block block = partition.block(task);
    BackpropBlock(layout, block, all.data() + block.channel_begin, dy, x, dx);
  });
}

}  // namespace

bool Backprop(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy, const void* x,
              const std::vector<double>& scale, const std::vector<double>& mean, const std::vector<double>& inv_std,
              const std::vector<double>& scale_grad, const std::vector<double>& bias_grad, int64_t count, void* dx) {
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    Run<T, ComputeType<T, decltype(u)>>(executor, layout, static_cast<const T*>(dy), static_cast<const T*>(x), scale,
                                        mean, inv_std, scale_grad, bias_grad, count, static_cast<T*>(dx));
  });
}

bool ChannelBackprop(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                     const void* x, const void* scale, const void* mean, const void* inv_std, const void* scale_grad,
                     const void* bias_grad, const int64_t* count, void* dx) {
  const auto wide = [&](const void* vector) { return ToDouble(stats_type, vector, layout.channels); };
  return Backprop(x_type, stats_type, executor, layout, dy, x, wide(scale), wide(mean), wide(inv_std), wide(scale_grad),
                  wide(bias_grad), *count, dx);
}

}  // namespace onnx_cbp
