// ChannelBackpropStatsGrad: the gradient of ChannelBackpropStats, for second derivatives.
#include "../dividing/caches.h"
#include "../element_types.h"
#include "../loops/channels/normalize.h"
#include "../op.h"
#include "vectors.h"

namespace onnx_cbp {

// Vector-Jacobian product of ChannelBackpropStats:
//   dx = d_scale_grad * inv_std * dy                       d_mean = -d_scale_grad * inv_std * sum(dy)
//   d_dy = d_scale_grad * inv_std * (x - mean) + d_bias_grad   d_inv_std = d_scale_grad * sum(dy * (x - mean))
bool ChannelBackpropStatsGrad(const TensorCall& call, const ChannelBackpropStatsGradArguments& in) {
  const Layout& layout = call.layout;
  const size_t channels = static_cast<size_t>(layout.channels);
  const auto wide = [&](const auto& vector) { return ToDouble(call.stats_type, vector.data(), layout.channels); };
  const std::vector<double> center = wide(in.mean), s = wide(in.inv_std);
  const std::vector<double> a = wide(in.d_scale_grad), b = wide(in.d_bias_grad);
  const std::vector<double> ones(channels, 1.0);
  std::vector<double> products(channels), gradients(channels);
  const ChannelBackpropStatsArguments sums{
      in.x,  Input<formal_mean>(center.data()),          Input<formal_inv_std>(ones.data()),
      in.dy, Result<formal_scale_grad>(products.data()), Result<formal_bias_grad>(gradients.data())};
  if (!ChannelBackpropStats({call.x_type, kDouble, call.executor, layout}, sums)) return false;
  for (size_t c = 0; c < channels; ++c) {
    products[c] *= a[c];
    gradients[c] *= -a[c] * s[c];
  }
  FromDouble(gradients, call.stats_type, in.d_mean.data());
  FromDouble(products, call.stats_type, in.d_inv_std.data());
  return Dispatch(call.x_type, call.stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    std::vector<NormalizeCoefficients<V>> of_dy(channels), of_x(channels);
    for (size_t c = 0; c < channels; ++c) {
      of_dy[c] = {V(0), static_cast<V>(a[c] * s[c]), V(0)};
      of_x[c] = {static_cast<V>(center[c]), of_dy[c].slope, static_cast<V>(b[c])};
    }
    const Partition partition(layout);
    const bool stream = WritesPastCaches(layout, sizeof(T), 4 * layout.size() * sizeof(T));
    call.executor.ForEach(partition.tasks(), [&](int64_t task) {
      const Piece piece = partition.piece(task);
      NormalizePiece(layout, piece, of_dy.data(), in.dy.As<T>(), false, {in.dx.As<T>(), stream});
      NormalizePiece(layout, piece, of_x.data(), in.x.As<T>(), false, {in.d_dy.As<T>(), stream});
    });
  });
}

}  // namespace onnx_cbp
