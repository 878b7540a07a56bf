#include "channel_backprop_stats.h"

#include <vector>

#include "clones.h"
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
ONNX_CBP_CLONES void PlaneSums(const Layout& layout, const Block& block, const T* x, const U* mean, const T* dy,
                               Sums* sums) {
  const size_t channels = static_cast<size_t>(block.channels());
  std::vector<Lanes> products(channels), gradients(channels);
  ForEachPlane(layout, block, [&](int64_t c, int64_t offset) {
    const double center = static_cast<double>(mean[block.channel_begin + c]);
    const T* x_plane = x + offset;
    const T* dy_plane = dy + offset;
    // Copies, so that the compiler keeps them in registers. They are added up once, at the end:
    // planes may be short.
    Lanes product = products[static_cast<size_t>(c)], gradient = gradients[static_cast<size_t>(c)];
    ForEachLane(block.inner(), [&](int lane, int64_t i) {
      const double dy_i = static_cast<double>(Load(dy_plane[i]));
      product.value[lane] += dy_i * (static_cast<double>(Load(x_plane[i])) - center);
      gradient.value[lane] += dy_i;
    });
    products[static_cast<size_t>(c)] = product;
    gradients[static_cast<size_t>(c)] = gradient;
  });
  for (size_t c = 0; c < channels; ++c) sums[c] = {products[c].Sum(), gradients[c].Sum()};
}

template <typename T, typename U>
ONNX_CBP_CLONES void RowSums(const Layout& layout, const Block& block, const T* x, const U* mean, const T* dy,
                             Sums* sums) {
  const std::vector<U> center = RepeatForRow(layout, block, mean + block.channel_begin);
  const size_t length = center.size();
  std::vector<double> products(length), gradients(length);
  const int64_t stride = layout.channels * layout.inner;
  ForEachRowGroup(layout, block, [&](auto rows, int64_t offset) {
    for (size_t i = 0; i < length; ++i) {
      const T* x_i = x + offset + i;
      const T* dy_i = dy + offset + i;
      double product = products[i], gradient = gradients[i];
      for (int64_t row = 0; row < rows; ++row) {
        const double value = static_cast<double>(Load(dy_i[row * stride]));
        product += value * (static_cast<double>(Load(x_i[row * stride])) - static_cast<double>(center[i]));
        gradient += value;
      }
      products[i] = product;
      gradients[i] = gradient;
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
    if (SumsByRow(layout)) {
      RowSums(layout, block, x, mean, dy, sums);
    } else {
      PlaneSums(layout, block, x, mean, dy, sums);
    }
  });
  std::vector<Sums> total(static_cast<size_t>(layout.channels));
  for (int64_t part = 0; part < partition.parts(); ++part) {
    const Sums* next = partial.data() + part * layout.channels;
    for (size_t c = 0; c < total.size(); ++c) {
      total[c].product += next[c].product;
      total[c].gradient += next[c].gradient;
    }
  }
  for (size_t c = 0; c < total.size(); ++c) {
    // Nothing was summed: 0, also where inv_std is not finite.
    scale_grad[c] = static_cast<U>(layout.empty() ? 0.0 : total[c].product * static_cast<double>(inv_std[c]));
    bias_grad[c] = static_cast<U>(total[c].gradient);
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
