// What the elementwise kernels multiply and add, one of each a channel, in the type V that they compute in.
#pragma once

#include "../../processors/targets.h"

namespace onnx_cbp {

// y = (x - center) * slope + offset
template <typename V>
struct NormalizeCoefficients {
  V center, slope, offset;
};

// From values in double. What rounding takes from the mean goes into the offset, so that a mean that is known better
// than x's type can say keeps y's digits at a large offset.
template <typename V>
ONNX_CBP_INLINE NormalizeCoefficients<V> MakeNormalizeCoefficients(double mean, double inv_std, double scale,
                                                                   double b) {
  const double slope = scale * inv_std;
  const V center = static_cast<V>(mean);
  const double rest = mean - static_cast<double>(center);
  const bool counts = rest != 0.0 && rest - rest == 0.0;  // of a mean that is not finite, nothing is left
  return {center, static_cast<V>(slope), static_cast<V>(counts ? b - rest * slope : b)};
}

// Coefficients that are kept in type U between the forward op and its gradient: the center is the mean as it is kept.
template <typename U, typename V>
ONNX_CBP_INLINE NormalizeCoefficients<V> AsKept(double mean, double inv_std, double scale, double b) {
  const NormalizeCoefficients<U> kept = MakeNormalizeCoefficients<U>(mean, inv_std, scale, b);
  return {static_cast<V>(kept.center), static_cast<V>(kept.slope), static_cast<V>(kept.offset)};
}

// dx = slope * (dy - through_mean + (x - center) * through_var): what cancels does so before it is multiplied.
template <typename V>
struct BackpropCoefficients {
  V center, slope, through_mean, through_var;
};

// From values in double; count is the number of elements per channel that the statistics were taken over.
template <typename V>
ONNX_CBP_INLINE BackpropCoefficients<V> MakeBackpropCoefficients(double scale, double mean, double inv_std,
                                                                 double scale_grad, double bias_grad, double count) {
  return {static_cast<V>(mean), static_cast<V>(scale * inv_std), static_cast<V>(bias_grad / count),
          static_cast<V>(-inv_std * (scale_grad / count))};
}

}  // namespace onnx_cbp
