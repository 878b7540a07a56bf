#include "batch_norm_train_update.h"

#include <vector>

#include "running_stats.h"

namespace onnx_cbp {

bool BatchNormTrainUpdate(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                          bool relu, const void* x, const void* scale, const void* b, const RunningUpdate& running,
                          BatchNormTrainOutputs outputs) {
  // Rounded to the statistics type, as the two ops between which it is passed on would do.
  std::vector<double> storage(static_cast<size_t>(layout.channels));
  outputs.var = storage.data();
  const int64_t count = layout.outer * layout.inner;
  return BatchNormTrain(x_type, stats_type, executor, layout, epsilon, relu, x, scale, b, outputs) &&
         RunningStats(stats_type, layout.channels, running.momentum, false, running.mean, outputs.mean, &count,
                      running.updated_mean) &&
         RunningStats(stats_type, layout.channels, running.momentum, running.unbiased, running.var, outputs.var, &count,
                      running.updated_var);
}

}  // namespace onnx_cbp
