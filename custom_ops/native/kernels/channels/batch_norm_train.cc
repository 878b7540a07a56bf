// Normalises a batch by its own statistics.
#include "batch_norm_train.h"

#include <cmath>

#include "../dividing/caches.h"
#include "../dividing/schedule.h"
#include "../element_types.h"
#include "../loops/channels/moments.h"
#include "../loops/channels/normalize.h"
#include "vectors.h"

namespace onnx_cbp {

bool Forward(const TensorCall& call, const ForwardInputs& inputs, const ForwardOutputs& outputs) {
  const Layout& layout = call.layout;
  const size_t channels = static_cast<size_t>(layout.channels);
  const std::vector<double> gamma = ToDouble(call.stats_type, inputs.scale.data(), layout.channels);
  const std::vector<double> beta = ToDouble(call.stats_type, inputs.b.data(), layout.channels);
  std::vector<double> mean(channels), var(channels), inv_std(channels), slope(channels), offset(channels);
  const Partition partition(layout);
  std::vector<Moments> partial(static_cast<size_t>(partition.parts()) * channels);
  const bool known = Dispatch(call.x_type, call.stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    std::vector<NormalizeCoefficients<V>> coefficients(channels);
    const size_t bytes = 2 * layout.size() * sizeof(T);
    const Output<T> y{outputs.y.As<T>(), WritesPastCaches(layout, sizeof(T), bytes)};
    RunTwoSteps(
        call.executor, partition, layout, bytes,
        [&](const Piece& piece, int64_t part) {
          PieceMoments<T, V>(layout, piece, inputs.x.As<T>(),
                             partial.data() + part * layout.channels + piece.channel_begin);
        },
        [&](int64_t begin, int64_t end) {
          MergeMoments(partition, layout, partial.data(), begin, end, mean.data(), var.data());
          for (size_t c = static_cast<size_t>(begin); c < static_cast<size_t>(end); ++c) {
            inv_std[c] = 1.0 / std::sqrt(var[c] + inputs.epsilon);
            coefficients[c] = outputs.slope.data() == nullptr
                                  ? MakeNormalizeCoefficients<V>(mean[c], inv_std[c], gamma[c], beta[c])
                                  : AsKept<decltype(u), V>(mean[c], inv_std[c], gamma[c], beta[c]);
            slope[c] = static_cast<double>(coefficients[c].slope);
            offset[c] = static_cast<double>(coefficients[c].offset);
          }
        },
        [&](const Piece& piece) {
          NormalizePiece(layout, piece, coefficients.data(), inputs.x.As<T>(), inputs.relu, y);
        });
  });
  if (known && layout.empty()) {
    for (size_t c = 0; c < channels; ++c) {
      inv_std[c] = 1.0 / std::sqrt(inputs.epsilon);
      slope[c] = gamma[c] * inv_std[c];
      offset[c] = beta[c];
    }
  }
  const auto write = [&](const std::vector<double>& vector, const auto& output) {
    return FromDouble(vector, call.stats_type, output.data());
  };
  return known && write(mean, outputs.mean) && write(var, outputs.var) && write(inv_std, outputs.inv_std) &&
         write(slope, outputs.slope) && write(offset, outputs.offset);
}

bool BatchNormTrain(const TensorCall& call, const BatchNormTrainArguments& a) {
  *a.count.As<int64_t>() = call.layout.outer * call.layout.inner;
  return Forward(call, {a.epsilon, false, a.x, a.scale, a.b}, {a.y, a.mean, a.var, {}, {}, {}});
}

}  // namespace onnx_cbp
