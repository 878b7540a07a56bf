#include "batch_norm_train.h"

#include "channel_normalize.h"
#include "channel_stats.h"
#include "vectors.h"

namespace onnx_cbp {

bool BatchNormTrain(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                    const void* x, const void* scale, const void* b, void* y, void* mean, void* var, int64_t* count) {
  const size_t channels = static_cast<size_t>(layout.channels);
  std::vector<double> wide_mean(channels), wide_var(channels);
  if (!ChannelStats(x_type, kDouble, executor, layout, x, wide_mean.data(), wide_var.data(), count)) return false;
  FromDouble(wide_mean, stats_type, mean);
  FromDouble(wide_var, stats_type, var);
  return Normalize(x_type, stats_type, executor, layout, epsilon, x, ToDouble(stats_type, scale, layout.channels),
                   ToDouble(stats_type, b, layout.channels), wide_mean, wide_var, y);
}

}  // namespace onnx_cbp
