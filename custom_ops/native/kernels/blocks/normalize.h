// Normalisation, block by block.
#pragma once

#include "../element_types.h"
#include "../partition.h"

namespace onnx_cbp {

// y = (x - center) * slope + offset, in the type that is computed in.
template <typename V>
struct NormalizeCoefficients {
  V center, slope, offset;
};

// From values in double. What rounding takes from the mean goes into the offset, so that a mean that is known better
// than x's type can say keeps y's digits at a large offset.
template <typename V>
NormalizeCoefficients<V> MakeNormalizeCoefficients(double mean, double inv_std, double scale, double b) {
  const double slope = scale * inv_std;
  const V center = static_cast<V>(mean);
  const double rest = mean - static_cast<double>(center);
  return {center, static_cast<V>(slope), static_cast<V>(rest == 0.0 ? b : b - rest * slope)};
}

// Normalises a block, and cuts off what is negative where relu is set. coefficients start at the first channel of the
// block. Instantiated for every data type with float and double, and for double with double.
template <typename T, typename V>
void NormalizeBlock(const Layout& layout, const Block& block, const NormalizeCoefficients<V>* coefficients, const T* x,
                    bool relu, T* y);

}  // namespace onnx_cbp
