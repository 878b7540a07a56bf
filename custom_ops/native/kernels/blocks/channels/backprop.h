// The input gradient of a normalisation, block by block.
#pragma once

#include "../../dividing/partition.h"
#include "../../processors/targets.h"
#include "coefficients.h"
#include "output.h"
#include "relu_of.h"

namespace onnx_cbp {

#define ONNX_CBP_DECLARE(target)                                                                            \
  namespace target {                                                                                        \
  template <typename T, typename V>                                                                         \
  void BackpropBlock(const Layout& layout, const Block& block, const BackpropCoefficients<V>* coefficients, \
                     const T* dy, const ReluOf<T, V>& relu, const T* x, const Output<T>& dx);               \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// The gradient of a block; dy counts where the ReLU lets it pass. coefficients start at the first channel of the
// tensor.
template <typename T, typename V>
void BackpropBlock(const Layout& layout, const Block& block, const BackpropCoefficients<V>* coefficients, const T* dy,
                   const ReluOf<T, V>& relu, const T* x, const Output<T>& dx) {
  ONNX_CBP_RETURN_ON_TARGET((layout, block, coefficients, dy, relu, x, dx), BackpropBlock<T, V>);
}

}  // namespace onnx_cbp
