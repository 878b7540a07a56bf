// What each element of a forward pass adds to the moments, and its y. Only here y is computed, and only here a ReLU's
// mask is recomputed from y's coefficients.
//
// An op says what a pass does with each element. It reads vectors (Read; ReadFirst if only the first elements are
// there), and keeps what it needs of them (Keep). From this it makes the term that an element adds to the sums
// (TermOf), or the element to write (Make). Its Channel is what it knows about a channel meanwhile (Of; Around, if this
// is a pivot), and channel_of(i) is the Channel of element i. Sums of a part of a channel are written as a Partial
// (PartialOf).
#pragma once

#include "../../kernels/loops/channels/coefficients.h"
#include "accumulate.h"
#include "vectors.h"

namespace onnx_cbp::cuda {

// y, before a ReLU.
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

// Sums of differences from a pivot near the mean, and of their squares.
template <typename T, typename V>
struct MomentsOf : ReadsX<T> {
  using Compute = V;
  using Narrow = V;  // the type in which a batch is summed if in_narrow is set, else double
  using Partial = Moments;
  static constexpr bool kPivots = true;
  template <int kWidth>
  using Kept = typename ReadsX<T>::template Kept<kWidth>;

  bool in_narrow;  // not if statistics are double: they keep the digits of double for any data

  struct Channel {
    V pivot;
  };

  // The pivot is the mean of `count` elements with this sum. Not Inf or NaN, with which every difference would be NaN.
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

// y = (x - center) * slope + offset; if relu is set, negative results become zero.
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
