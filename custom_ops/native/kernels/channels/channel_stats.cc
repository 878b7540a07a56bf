// ChannelStats: mean and variance of each channel.
#include "../element_types.h"
#include "../loops/channels/moments.h"
#include "../op.h"
#include "vectors.h"

namespace onnx_cbp {

// mean[C] and var[C] (biased) of x, and *count = outer * inner. Zeros if x is empty.
bool ChannelStats(const TensorCall& call, const ChannelStatsArguments& a) {
  const Layout& layout = call.layout;
  *a.count.As<int64_t>() = layout.outer * layout.inner;
  const Partition partition(layout);
  std::vector<Moments> partial(static_cast<size_t>(partition.parts() * layout.channels));
  const bool known = Dispatch(call.x_type, call.stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    call.executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Piece piece = partition.piece(task);
      PieceMoments<T, V>(layout, piece, a.x.As<T>(),
                         partial.data() + partition.part(task) * layout.channels + piece.channel_begin);
    });
  });
  std::vector<double> wide_mean(static_cast<size_t>(layout.channels)), wide_var(wide_mean.size());
  MergeMoments(partition, layout, partial.data(), 0, layout.channels, wide_mean.data(), wide_var.data());
  return known && FromDouble(wide_mean, call.stats_type, a.mean.data()) &&
         FromDouble(wide_var, call.stats_type, a.var.data());
}

}  // namespace onnx_cbp
