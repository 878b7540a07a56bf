// What an element of a forward pass gives: to the moments, and to y. This is the one place where y is made, and where a
// ReLU's mask is recomputed by what made y.
//
// An op says what a pass does with each element. It reads vectors (Read; ReadFirst where only the first elements are
// there), keeps of them what it needs (Keep), and makes of that the term that an element adds to the sums (TermOf) or
// the element that is written (Make). Its Channel is what it knows of a channel while it does so (Of; Around, where
// that is a pivot), and channel_of(i) is that of element i. Sums of a part of a channel are written as a Partial
// (PartialOf).
#pragma once

#include "../../kernels/loops/channels/coefficients.h"
#include "accumulate.h"
#include "vectors.h"

namespace onnx_cbp::cuda {

// y before a ReLU.
template <typename V>
ONNX_CBP_DEVICE V Normal(const NormalizeCoefficients<V>& of, V x) {
  return MulAdd(x - of.center, of.slope, of.offset);
}

template <typename T>
struct ReadsX {
  using Element = T;
  static constexpr int kTensors = 1;

  template <int kWidth>
  struct Kept {
    Vector<T, kWidth> x;
  };
  template <int kWidth>
  using Inputs = Kept<kWidth>;

  const T* x;

  template <int kWidth, bool kLast>
  ONNX_CBP_DEVICE Inputs<kWidth> Read(int64_t at) const {
    return {LoadVector<kWidth, kLast>(x + at)};
  }
  template <int kWidth>
  ONNX_CBP_DEVICE Inputs<kWidth> ReadFirst(int64_t at, int64_t count) const {
    return {LoadFirst<kWidth>(x + at, count)};
  }
  template <int kWidth, typename ChannelOf>
  ONNX_CBP_DEVICE Kept<kWidth> Keep(const Inputs<kWidth>& inputs, const ChannelOf&) const {
    return inputs;
  }
};

// Sums of x and x^2 around a pivot near the mean.
template <typename T, typename V>
struct MomentsOf : ReadsX<T> {
  using Compute = V;
  using Narrow = V;  // what a batch is summed in where in_narrow is set, else in double
  using Partial = Moments;
  static constexpr bool kPivots = true;
  template <int kWidth>
  using Kept = typename ReadsX<T>::template Kept<kWidth>;

  bool in_narrow;  // not for statistics in double: they keep the digits of double, whatever the data are

  struct Channel {
    V pivot;
  };

  // The pivot is the mean of `count` elements with this sum. Around Inf or NaN every difference would be NaN.
  ONNX_CBP_DEVICE Channel Around(double sum, double count) const {
    const V pivot = static_cast<V>(sum / count);
    return {pivot - pivot == V(0) ? pivot : V(0)};
  }
  template <typename A, int kWidth>
  ONNX_CBP_DEVICE Term<A> TermOf(const Kept<kWidth>& kept, int i, const Channel& channel) const {
    const A shifted = Widen<A>(kept.x.At(i)) - static_cast<A>(channel.pivot);
    return {shifted, shifted};
  }
  ONNX_CBP_DEVICE Moments PartialOf(const TermSums& sums, const Channel& channel, double count) const {
    if (count == 0.0) return {0.0, 0.0};
    const double shift = sums.plain / count;
    const double m2 = sums.product - sums.plain * shift;
    return {static_cast<double>(channel.pivot) + shift, m2 < 0.0 ? 0.0 : m2};
  }
};

// y = (x - center) * slope + offset, and where relu is set, 0 in the place of what is negative.
template <typename T, typename V>
struct NormalizeTo : ReadsX<T> {
  using Compute = V;
  using Coefficients = NormalizeCoefficients<V>;
  using Channel = Coefficients;
  template <int kWidth>
  using Kept = typename ReadsX<T>::template Kept<kWidth>;

  T* out;
  const Coefficients* coefficients;  // of every channel
  bool relu;

  ONNX_CBP_DEVICE Channel Of(int64_t channel) const { return coefficients[channel]; }
  template <int kWidth>
  ONNX_CBP_DEVICE T Make(const Kept<kWidth>& kept, int i, const Coefficients& of) const {
    const V normal = Normal(of, Widen<V>(kept.x.At(i)));
    // Written so that NaN stays NaN, as in ONNX's Relu.
    return Round<T>(relu && normal < V(0) ? V(0) : normal);
  }
};

}  // namespace onnx_cbp::cuda
