// What each element of a backward pass adds to the sums of ChannelBackpropStats, and its dx. normalize_op.h says what
// an op is.
#pragma once

#include "../../kernels/loops/channels/coefficients.h"
#include "accumulate.h"
#include "normalize_op.h"
#include "statistics.h"
#include "vectors.h"

namespace onnx_cbp::cuda {

// dy, masked by the ReLU after the normalisation, and x. The ReLU's result y says which elements of dy pass, or else
// the slope and offset with which the ReLU's input was computed. If all are null, there was no ReLU.
template <typename T, typename V>
struct ReadsGradient {
  using Element = T;
  static constexpr int kTensors = 2;

  template <int kWidth>
  struct Inputs {
    Vector<T, kWidth> dy, x, y;
  };
  template <int kWidth>
  struct Kept {
    Vector<T, kWidth> dy, x;
  };

  const T* dy;
  const T* x;
  const T* y;
  Statistics mean, slope, offset;

  template <int kWidth, bool kLast>
  ONNX_CBP_DEVICE Inputs<kWidth> Read(int64_t at) const {
    Inputs<kWidth> inputs{LoadVector<kWidth, kLast>(dy + at), LoadVector<kWidth, kLast>(x + at), {}};
    if (y != nullptr) inputs.y = LoadVector<kWidth, kLast>(y + at);
    return inputs;
  }
  template <int kWidth>
  ONNX_CBP_DEVICE Inputs<kWidth> ReadFirst(int64_t at, int64_t count) const {
    Inputs<kWidth> inputs{LoadFirst<kWidth>(dy + at, count), LoadFirst<kWidth>(x + at, count), {}};
    if (y != nullptr) inputs.y = LoadFirst<kWidth>(y + at, count);
    return inputs;
  }

  // The coefficients of the ReLU's input; used only if the mask is recomputed.
  ONNX_CBP_DEVICE NormalizeCoefficients<V> Forward(int64_t channel) const {
    if (slope.values == nullptr) return {};
    return {static_cast<V>(mean[channel]), static_cast<V>(slope[channel]), static_cast<V>(offset[channel])};
  }

  template <int kWidth, typename ChannelOf>
  ONNX_CBP_DEVICE Kept<kWidth> Keep(const Inputs<kWidth>& inputs, const ChannelOf& channel_of) const {
    Kept<kWidth> kept{inputs.dy, inputs.x};
    if (y != nullptr) {
      for (int i = 0; i < kWidth; ++i) {
        if (!(Widen<V>(inputs.y.At(i)) > V(0))) kept.dy.Set(i, T{});
      }
    } else if (slope.values != nullptr) {
      for (int i = 0; i < kWidth; ++i) {
        const V normal = Normal(channel_of(i).forward, Widen<V>(inputs.x.At(i)));
        if (!(normal > RoundsToZero<T, V>())) kept.dy.Set(i, T{});
      }
    }
    return kept;
  }
};

// Sums of dy * (x - mean) and of dy.
template <typename T, typename V>
struct SumsOf : ReadsGradient<T, V> {
  using Compute = V;
  // The type in which a batch is summed if in_narrow is set, else double. Products of 16-bit data are as good as exact
  // in float. Products of floats are not, and are summed in pairs of floats if double is slow.
  using Narrow = std::conditional_t<std::is_same_v<V, double>, double,
                                    std::conditional_t<sizeof(T) < sizeof(float), float, Exact>>;
  using Partial = Sums;
  static constexpr bool kPivots = false;
  template <int kWidth>
  using Kept = typename ReadsGradient<T, V>::template Kept<kWidth>;

  bool in_narrow;

  struct Channel {
    V mean;  // rounded to V; FinishSums corrects for that (WithoutRounding)
    NormalizeCoefficients<V> forward;
  };

  ONNX_CBP_DEVICE Channel Of(int64_t channel) const {
    return {static_cast<V>(this->mean[channel]), this->Forward(channel)};
  }
  template <typename A, int kWidth>
  ONNX_CBP_DEVICE Term<A> TermOf(const Kept<kWidth>& kept, int i, const Channel& channel) const {
    if constexpr (std::is_same_v<A, Exact>) {
      const RoundedSum shifted = RoundedSum::Of(Widen<float>(kept.x.At(i)), -channel.mean);
      return {Widen<float>(kept.dy.At(i)), shifted.sum, shifted.rest};
    } else {
      return TermIn<A>(kept, i, channel);
    }
  }
  template <typename A, int kWidth>
  ONNX_CBP_DEVICE Term<A> TermIn(const Kept<kWidth>& kept, int i, const Channel& channel) const {
    return {Widen<A>(kept.dy.At(i)), Widen<A>(kept.x.At(i)) - static_cast<A>(channel.mean)};
  }
  ONNX_CBP_DEVICE Partial PartialOf(const TermSums& sums, const Channel&, double) const {
    return {sums.product, sums.plain};
  }
};

// dx = slope * (dy - through_mean + (x - center) * through_var)
template <typename T, typename V>
struct BackpropTo : ReadsGradient<T, V> {
  using Compute = V;
  using Coefficients = BackpropCoefficients<V>;
  template <int kWidth>
  using Kept = typename ReadsGradient<T, V>::template Kept<kWidth>;

  struct Channel {
    Coefficients backward;
    NormalizeCoefficients<V> forward;
    ONNX_CBP_DEVICE operator const Coefficients&() const { return backward; }
  };

  T* out;
  const Coefficients* coefficients;  // of every channel

  ONNX_CBP_DEVICE Channel Of(int64_t channel) const { return {coefficients[channel], this->Forward(channel)}; }
  template <int kWidth>
  ONNX_CBP_DEVICE T Make(const Kept<kWidth>& kept, int i, const Coefficients& of) const {
    const V x = Widen<V>(kept.x.At(i)), dy = Widen<V>(kept.dy.At(i));
    return Round<T>(of.slope * MulAdd(x - of.center, of.through_var, dy - of.through_mean));
  }
};

}  // namespace onnx_cbp::cuda
