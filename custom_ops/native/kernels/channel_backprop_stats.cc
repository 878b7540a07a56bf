#include "channel_backprop_stats.h"

#include <vector>

#include "lanes.h"
#include "traverse.h"

namespace onnx_cbp {
namespace {

// Sums over one part of a channel; the product is not yet multiplied by inv_std.
struct Sums {
  double product = 0.0;
  double gradient = 0.0;
};

template <typename T, typename U>
void PlaneSums(const Layout& layout, const Block& block, const T* x, const U* mean, const T* dy, Sums* sums) {
  ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
    const double center = static_cast<double>(mean[block.channel_begin + c]);
    const T* x_plane = x + offset;
    const T* dy_plane = dy + offset;
    Lanes product, gradient;
    ForEachLane(block.inner(), [&](int lane, int64_t i) {
      const double dy_i = static_cast<double>(Load(dy_plane[i]));
      product.value[lane] += dy_i * (static_cast<double>(Load(x_plane[i])) - center);
      gradient.value[lane] += dy_i;
    });
    sums[c].product += product.Sum();
    sums[c].gradient += gradient.Sum();
  });
}

template <typename T, typename U>
void RowSums(const Layout& layout, const Block& block, const T* x, const U* mean, const T* dy, Sums* sums) {
  const std::vector<U> center = RepeatForRow(layout, block, mean + block.channel_begin);
  const size_t length = center.size();
  std::vector<double> products(length), gradients(length);
  ForEachRow(layout, block, [&](int64_t offset) {
    const T* x_row = x + offset;
    const T* dy_row = dy + offset;
    for (size_t i = 0; i < length; ++i) {
      const double dy_i = static_cast<double>(Load(dy_row[i]));
      products[i] += dy_i * (static_cast<double>(Load(x_row[i])) - static_cast<double>(center[i]));
      gradients[i] += dy_i;
    }
  });
  for (size_t i = 0; i < length; ++i) {
    Sums& channel = sums[static_cast<int64_t>(i) / layout.inner];
    channel.product += products[i];
    channel.gradient += gradients[i];
  }
}

template <typename T, typename U>
void Run(const Executor& executor, const Layout& layout, const T* x, const U* mean, const U* inv_std, const T* dy,
         U* scale_grad, U* bias_grad) {
  const Partition partition(layout);
  std::vector<Sums> partial(static_cast<size_t>(partition.parts() * layout.channels));
  executor.ForEach(partition.tasks(), [&](int64_t task) {
    const Block block = partition.block(task);
    Sums* sums = partial.data() + partition.part(task) * layout.channels + block.channel_begin;
    if (HasShortPlanes(layout)) {
      RowSums(layout, block, x, mean, dy, sums);
    } else {
      PlaneSums(layout, block, x, mean, dy, sums);
    }
  });
  for (int64_t c = 0; c < layout.channels; ++c) {
    Sums total;
    for (int64_t part = 0; part < partition.parts(); ++part) {
      const Sums& next = partial[static_cast<size_t>(part * layout.channels + c)];
      total.product += next.product;
      total.gradient += next.gradient;
    }
    scale_grad[c] = static_cast<U>(layout.empty() ? 0.0 : total.product * static_cast<double>(inv_std[c]));
    bias_grad[c] = static_cast<U>(total.gradient);
  }
}

}  // namespace

bool ChannelBackpropStats(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x,
                          const void* mean, const void* inv_std, const void* dy, void* scale_grad, void* bias_grad) {
  return Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using U = decltype(u);
    Run(executor, layout, static_cast<const T*>(x), static_cast<const U*>(mean), static_cast<const U*>(inv_std),
        static_cast<const T*>(dy), static_cast<U*>(scale_grad), static_cast<U*>(bias_grad));
  });
}

}  // namespace onnx_cbp
