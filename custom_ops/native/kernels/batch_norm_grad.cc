#include "batch_norm_grad.h"

#include "blocks/backprop.h"
#include "blocks/sums.h"
#include "caches.h"
#include "schedule.h"
#include "vectors.h"

namespace onnx_cbp {

bool BatchNormGrad(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                   const ReluSource& source, const void* x, const void* scale, const void* mean, const void* inv_std,
                   void* dx, void* scale_grad, void* bias_grad) {
  const size_t channels = static_cast<size_t>(layout.channels);
  const auto wide = [&](const void* vector) { return ToDouble(stats_type, vector, layout.channels); };
  const std::vector<double> gamma = wide(scale), center = wide(mean), s = wide(inv_std);
  std::vector<double> scale_sums(channels), bias_sums(channels);
  const Partition partition(layout);
  std::vector<Sums> partial(static_cast<size_t>(partition.parts()) * channels);
  const double count = static_cast<double>(layout.outer * layout.inner);
  const bool known = Dispatch(x_type, stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    const T* const dys = static_cast<const T*>(dy);
    ReluOf<T, V> relu{static_cast<const T*>(source.y), nullptr};
    std::vector<NormalizeCoefficients<V>> forward;
    if (source.slope != nullptr) {
      const std::vector<double> slope = wide(source.slope), offset = wide(source.offset);
      for (size_t c = 0; c < channels; ++c) {
        forward.push_back({static_cast<V>(center[c]), static_cast<V>(slope[c]), static_cast<V>(offset[c])});
      }
      relu.coefficients = forward.data();
    }
    const size_t bytes = (source.y == nullptr ? 3 : 4) * layout.size() * sizeof(T);
    const Output<T> out{static_cast<T*>(dx), WritesPastCaches(layout, sizeof(T), bytes)};
    const T* const xs = static_cast<const T*>(x);
    std::vector<BackpropCoefficients<V>> coefficients(channels);
    RunTwoSteps(
        executor, partition, layout, FitsCaches(bytes),
        [&](int64_t task) {
          const Block block = partition.block(task);
          BlockSums(layout, block, xs, center.data(), dys, relu,
                    partial.data() + partition.part(task) * layout.channels + block.channel_begin);
        },
        [&](int64_t begin, int64_t end) {
          MergeSums(partition, layout, partial.data(), s.data(), begin, end, scale_sums.data(), bias_sums.data());
          for (size_t c = static_cast<size_t>(begin); c < static_cast<size_t>(end); ++c) {
            coefficients[c] =
                MakeBackpropCoefficients<V>(gamma[c], center[c], s[c], scale_sums[c], bias_sums[c], count);
          }
        },
        [&](const Block& block) { BackpropBlock(layout, block, coefficients.data(), dys, relu, xs, out); });
  });
  return known && FromDouble(scale_sums, stats_type, scale_grad) && FromDouble(bias_sums, stats_type, bias_grad);
}

}  // namespace onnx_cbp
