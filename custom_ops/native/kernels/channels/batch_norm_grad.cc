// BatchNormGrad, and the two forms of it that include the gradient of a ReLU.
#include "../dividing/caches.h"
#include "../dividing/schedule.h"
#include "../element_types.h"
#include "../loops/channels/backprop.h"
#include "../loops/channels/sums.h"
#include "../op.h"
#include "vectors.h"

namespace onnx_cbp {

namespace {

// Which ReLU came after the normalisation: its result y, or the slope and offset with which the forward op computed the
// ReLU's input. If all are null, there was none.
struct ReluSource {
  Input<formal_y> y;
  Input<formal_slope> slope;
  Input<formal_offset> offset;
};

// For every channel, the coefficients of the ReLU's input; empty if the mask is not recomputed.
template <typename V>
std::vector<NormalizeCoefficients<V>> ForwardCoefficients(const std::vector<double>& center, const ReluSource& source,
                                                          int stats_type) {
  std::vector<NormalizeCoefficients<V>> forward;
  if (source.slope.data() == nullptr) return forward;
  const int64_t channels = static_cast<int64_t>(center.size());
  const std::vector<double> slope = ToDouble(stats_type, source.slope.data(), channels);
  const std::vector<double> offset = ToDouble(stats_type, source.offset.data(), channels);
  for (size_t c = 0; c < center.size(); ++c) {
    forward.push_back({static_cast<V>(center[c]), static_cast<V>(slope[c]), static_cast<V>(offset[c])});
  }
  return forward;
}

// ChannelBackpropStats and ChannelBackprop in one pass over groups of channels, where the count is that of x itself. dx
// is computed from the sums in double, before these are rounded to the statistics type. dy counts only where the ReLU
// lets it pass.
bool Backward(const TensorCall& call, const BatchNormGradArguments& a, const ReluSource& source) {
  const Layout& layout = call.layout;
  const size_t channels = static_cast<size_t>(layout.channels);
  const auto wide = [&](const auto& vector) { return ToDouble(call.stats_type, vector.data(), layout.channels); };
  const std::vector<double> gamma = wide(a.scale), center = wide(a.mean), s = wide(a.inv_std);
  std::vector<double> scale_sums(channels), bias_sums(channels);
  const Partition partition(layout);
  std::vector<Sums> partial(static_cast<size_t>(partition.parts()) * channels);
  const double count = static_cast<double>(layout.outer * layout.inner);
  const bool known = Dispatch(call.x_type, call.stats_type, [&](auto t, auto u) {
    using T = decltype(t);
    using V = ComputeType<T, decltype(u)>;
    const T* const dys = a.dy.As<T>();
    const std::vector<NormalizeCoefficients<V>> forward = ForwardCoefficients<V>(center, source, call.stats_type);
    const ReluOf<T, V> relu{source.y.As<T>(), forward.empty() ? nullptr : forward.data()};
    const size_t bytes = (source.y.data() == nullptr ? 3 : 4) * layout.size() * sizeof(T);
    const Output<T> out{a.dx.As<T>(), WritesPastCaches(layout, sizeof(T), bytes)};
    const T* const xs = a.x.As<T>();
    std::vector<BackpropCoefficients<V>> coefficients(channels);
    RunTwoSteps(
        call.executor, partition, layout, bytes,
        [&](const Piece& piece, int64_t part) {
          PieceSums(layout, piece, xs, center.data(), dys, relu,
                    partial.data() + part * layout.channels + piece.channel_begin);
        },
        [&](int64_t begin, int64_t end) {
          MergeSums(partition, layout, partial.data(), s.data(), begin, end, scale_sums.data(), bias_sums.data());
          for (size_t c = static_cast<size_t>(begin); c < static_cast<size_t>(end); ++c) {
            coefficients[c] =
                MakeBackpropCoefficients<V>(gamma[c], center[c], s[c], scale_sums[c], bias_sums[c], count);
          }
        },
        [&](const Piece& piece) { BackpropPiece(layout, piece, coefficients.data(), dys, relu, xs, out); });
  });
  return known && FromDouble(scale_sums, call.stats_type, a.scale_grad.data()) &&
         FromDouble(bias_sums, call.stats_type, a.bias_grad.data());
}

template <typename Arguments>
BatchNormGradArguments WithoutRelu(const Arguments& a) {
  return {a.dy, a.x, a.scale, a.mean, a.inv_std, a.dx, a.scale_grad, a.bias_grad};
}

}  // namespace

bool BatchNormGrad(const TensorCall& call, const BatchNormGradArguments& a) { return Backward(call, a, {}); }

bool BatchNormReluGrad(const TensorCall& call, const BatchNormReluGradArguments& a) {
  return Backward(call, WithoutRelu(a), {a.y, {}, {}});
}

bool BatchNormRecomputeReluGrad(const TensorCall& call, const BatchNormRecomputeReluGradArguments& a) {
  return Backward(call, WithoutRelu(a), {{}, a.slope, a.offset});
}

}  // namespace onnx_cbp
