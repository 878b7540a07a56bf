#include "channel_backprop_stats.h"

#include "blocks/sums.h"
#include "vectors.h"

namespace onnx_cbp {

bool ChannelBackpropStats(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x,
                          const void* mean, const void* inv_std, const void* dy, void* scale_grad, void* bias_grad) {
  const std::vector<double> center = ToDouble(stats_type, mean, layout.channels);
  const std::vector<double> s = ToDouble(stats_type, inv_std, layout.channels);
  const size_t channels = static_cast<size_t>(layout.channels);
  if (center.size() != channels) return false;
  const Partition partition(layout);
  std::vector<Sums> partial(static_cast<size_t>(partition.parts()) * channels);
  const bool known = Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Block block = partition.block(task);
      BlockSums(layout, block, static_cast<const T*>(x), center.data(), static_cast<const T*>(dy), ReluOf<T, V>{},
                partial.data() + partition.part(task) * layout.channels + block.channel_begin);
    });
  });
  std::vector<double> scale_sums(channels), bias_sums(channels);
  MergeSums(partition, layout, partial.data(), s.data(), 0, layout.channels, scale_sums.data(), bias_sums.data());
  return known && FromDouble(scale_sums, stats_type, scale_grad) && FromDouble(bias_sums, stats_type, bias_grad);
}

}  // namespace onnx_cbp
