// ChannelBackpropStats: the sums from which a batch norm's gradients are computed.
#include "../element_types.h"
#include "../loops/channels/sums.h"
#include "../op.h"
#include "vectors.h"

namespace onnx_cbp {

// scale_grad[C] = sum(dy * (x - mean) * inv_std) and bias_grad[C] = sum(dy), summed in double and rounded once. Zeros
// if x is empty.
bool ChannelBackpropStats(const TensorCall& call, const ChannelBackpropStatsArguments& a) {
  const Layout& layout = call.layout;
  const std::vector<double> center = ToDouble(call.stats_type, a.mean.data(), layout.channels);
  const std::vector<double> s = ToDouble(call.stats_type, a.inv_std.data(), layout.channels);
  const size_t channels = static_cast<size_t>(layout.channels);
  if (center.size() != channels) return false;
  const Partition partition(layout);
  std::vector<Sums> partial(static_cast<size_t>(partition.parts()) * channels);
  const bool known = Dispatch(call.x_type, call.stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    call.executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Piece piece = partition.piece(task);
      PieceSums(layout, piece, a.x.As<T>(), center.data(), a.dy.As<T>(), ReluOf<T, V>{},
                partial.data() + partition.part(task) * layout.channels + piece.channel_begin);
    });
  });
  std::vector<double> scale_sums(channels), bias_sums(channels);
  MergeSums(partition, layout, partial.data(), s.data(), 0, layout.channels, scale_sums.data(), bias_sums.data());
  return known && FromDouble(scale_sums, call.stats_type, a.scale_grad.data()) &&
         FromDouble(bias_sums, call.stats_type, a.bias_grad.data());
}

}  // namespace onnx_cbp
