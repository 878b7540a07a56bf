#include "batch_norm_train.h"

#include <cmath>

#include "blocks/moments.h"
#include "blocks/normalize.h"
#include "caches.h"
#include "schedule.h"
#include "vectors.h"

namespace onnx_cbp {

bool BatchNormTrain(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                    bool relu, const void* x, const void* scale, const void* b, const BatchNormTrainOutputs& outputs) {
  const size_t channels = static_cast<size_t>(layout.channels);
  const std::vector<double> gamma = ToDouble(stats_type, scale, layout.channels);
  const std::vector<double> beta = ToDouble(stats_type, b, layout.channels);
  std::vector<double> mean(channels), var(channels), inv_std(channels), slope(channels), offset(channels);
  const Partition partition(layout);
  std::vector<Moments> partial(static_cast<size_t>(partition.parts()) * channels);
  const bool known = Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    std::vector<NormalizeCoefficients<V>> coefficients(channels);
    const size_t bytes = 2 * layout.size() * sizeof(T);
    const Output<T> y{static_cast<T*>(outputs.y), WritesPastCaches(layout, sizeof(T), bytes)};
    RunTwoSteps(
        executor, partition, layout, FitsCaches(bytes),
        [&](int64_t task) {
          const Block block = partition.block(task);
          BlockMoments<T, V>(layout, block, static_cast<const T*>(x),
                             partial.data() + partition.part(task) * layout.channels + block.channel_begin);
        },
        [&](int64_t begin, int64_t end) {
          MergeMoments(partition, layout, partial.data(), begin, end, mean.data(), var.data());
          for (size_t c = static_cast<size_t>(begin); c < static_cast<size_t>(end); ++c) {
            inv_std[c] = 1.0 / std::sqrt(var[c] + epsilon);
            coefficients[c] = outputs.slope == nullptr
                                  ? MakeNormalizeCoefficients<V>(mean[c], inv_std[c], gamma[c], beta[c])
                                  : AsKept<decltype(u), V>(mean[c], inv_std[c], gamma[c], beta[c]);
            slope[c] = static_cast<double>(coefficients[c].slope);
            offset[c] = static_cast<double>(coefficients[c].offset);
          }
        },
        [&](const Block& block) {
          NormalizeBlock(layout, block, coefficients.data(), static_cast<const T*>(x), relu, y);
        });
  });
  if (known && layout.empty()) {
    for (size_t c = 0; c < channels; ++c) {
      inv_std[c] = 1.0 / std::sqrt(epsilon);
      slope[c] = gamma[c] * inv_std[c];
      offset[c] = beta[c];
    }
  }
  return known && FromDouble(mean, stats_type, outputs.mean) && FromDouble(var, stats_type, outputs.var) &&
         FromDouble(inv_std, stats_type, outputs.inv_std) && FromDouble(slope, stats_type, outputs.slope) &&
         FromDouble(offset, stats_type, outputs.offset);
}

}  // namespace onnx_cbp
