#include "channel_stats.h"

#include "blocks/moments.h"
#include "vectors.h"

namespace onnx_cbp {

bool ChannelStats(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x, void* mean,
                  void* var, int64_t* count) {
  *count = layout.outer * layout.inner;
  const Partition partition(layout);
  std::vector<Moments> partial(static_cast<size_t>(partition.parts() * layout.channels));
  const bool known = Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Block block = partition.block(task);
      BlockMoments<T, V>(layout, block, static_cast<const T*>(x),
                         partial.data() + partition.part(task) * layout.channels + block.channel_begin);
    });
  });
  std::vector<double> wide_mean(static_cast<size_t>(layout.channels)), wide_var(wide_mean.size());
  MergeMoments(partition, layout, partial.data(), 0, layout.channels, wide_mean.data(), wide_var.data());
  return known && FromDouble(wide_mean, stats_type, mean) && FromDouble(wide_var, stats_type, var);
}

}  // namespace onnx_cbp
