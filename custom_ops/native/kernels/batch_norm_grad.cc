#include "batch_norm_grad.h"

#include "channel_backprop.h"
#include "channel_backprop_stats.h"
#include "vectors.h"

namespace onnx_cbp {

bool BatchNormGrad(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                   const void* x, const void* scale, const void* mean, const void* inv_std, void* dx, void* scale_grad,
                   void* bias_grad) {
  const size_t channels = static_cast<size_t>(layout.channels);
  const auto wide = [&](const void* vector) { return ToDouble(stats_type, vector, layout.channels); };
  const std::vector<double> wide_mean = wide(mean), wide_inv_std = wide(inv_std);
  std::vector<double> scale_sums(channels), bias_sums(channels);
  if (!ChannelBackpropStats(x_type, kDouble, executor, layout, x, wide_mean.data(), wide_inv_std.data(), dy,
                            scale_sums.data(), bias_sums.data())) {
    return false;
  }
  FromDouble(scale_sums, stats_type, scale_grad);
  FromDouble(bias_sums, stats_type, bias_grad);
  return Backprop(x_type, stats_type, executor, layout, dy, x, wide(scale), wide_mean, wide_inv_std, scale_sums,
                  bias_sums, layout.outer * layout.inner, dx);
}

}  // namespace onnx_cbp
