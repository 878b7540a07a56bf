// The factors and terms of the elementwise kernels, one set per channel, in the type V in which they compute.
#pragma once

#include "../../processors/targets.h"

namespace onnx_cbp {

// y = (x - center) * slope + offset
template <typename V>
struct NormalizeCoefficients {
  V center, slope, offset;
};

// From values in double. What rounding the mean loses is added to the offset. So y keeps its digits where x has a large
// offset and the mean is known more exactly than x's type can hold.
template <typename V>
ONNX_CBP_INLINE NormalizeCoefficients<V> MakeNormalizeCoefficients(double mean, double inv_std, double scale,
                                                                   double b) {
  const double slope = scale * inv_std;
  const V center = static_cast<V>(mean);
  const double rest = mean - static_cast<double>(center);
  const bool counts = rest != 0.0 && rest - rest == 0.0;  // a mean that is not finite leaves no rest
  return {center, static_cast<V>(slope), static_cast<V>(counts ? b - rest * slope : b)};
}

// Coefficients that the forward op keeps for its gradient in type U: the center is the mean as it is kept.
template <typename U, typename V>
ONNX_CBP_INLINE NormalizeCoefficients<V> AsKept(double mean, double inv_std, double scale, double b) {
  const NormalizeCoefficients<U> kept = MakeNormalizeCoefficients<U>(mean, inv_std, scale, b);
  return {static_cast<V>(kept.center), static_cast<V>(kept.slope), static_cast<V>(kept.offset)};
}

// dx = slope * (dy - through_mean + (x - center) * through_var): terms that cancel are added before the multiplication.
template <typename V>
struct BackpropCoefficients {
  V center, slope, through_mean, through_var;
};

// From values in double; count is the number of elements per channel from which the statistics were computed.
template <typename V>
ONNX_CBP_INLINE BackpropCoefficients<V> MakeBackpropCoefficients(double scale, double mean, double inv_std,
                                                                 double scale_grad, double bias_grad, double count) {
  return {static_cast<V>(mean), static_cast<V>(scale * inv_std), static_cast<V>(bias_grad / count),
          static_cast<V>(-inv_std * (scale_grad / count))};
}

}  // namespace onnx_cbp
