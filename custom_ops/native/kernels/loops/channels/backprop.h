// The input gradient of a normalisation, piece by piece.
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
  void BackpropPiece(const Layout& layout, const Piece& piece, const BackpropCoefficients<V>* coefficients, \
                     const T* dy, const ReluOf<T, V>& relu, const T* x, const Output<T>& dx);               \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// Computes the gradient of a piece; dy counts only where the ReLU lets it pass. coefficients starts at the tensor's
// first channel.
template <typename T, typename V>
void BackpropPiece(const Layout& layout, const Piece& piece, const BackpropCoefficients<V>* coefficients, const T* dy,
                   const ReluOf<T, V>& relu, const T* x, const Output<T>& dx) {
  ONNX_CBP_RETURN_ON_TARGET((layout, piece, coefficients, dy, relu, x, dx), BackpropPiece<T, V>);
}

}  // namespace onnx_cbp
