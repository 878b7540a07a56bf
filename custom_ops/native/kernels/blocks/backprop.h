// The input gradient of a normalisation, block by block.
#pragma once

#include "../element_types.h"
#include "../partition.h"

namespace onnx_cbp {

// dx = slope * (dy - through_mean - (x - center) * through_var), in the type that is computed in.
template <typename V>
struct BackpropCoefficients {
  V center, through_var, through_mean, slope;
};

// From values in double; count is the number of elements per channel that the statistics were taken over.
template <typename V>
BackpropCoefficients<V> MakeBackpropCoefficients(double scale, double mean, double inv_std, double scale_grad,
                                                 double bias_grad, double count) {
  return {static_cast<V>(mean), static_cast<V>(inv_std * (scale_grad / count)), static_cast<V>(bias_grad / count),
          static_cast<V>(scale * inv_std)};
}

// The gradient of a block. Where y is given, dy counts only where y is positive: the gradient of a ReLU whose result
// is y. coefficients start at the first channel of the block. Instantiated as NormalizeBlock is.
template <typename T, typename V>
void BackpropBlock(const Layout& layout, const Block& block, const BackpropCoefficients<V>* coefficients, const T* dy,
                   const T* y, const T* x, T* dx);

}  // namespace onnx_cbp
