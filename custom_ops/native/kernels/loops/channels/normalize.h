// Normalisation, piece by piece.
#pragma once

#include "../../dividing/partition.h"
#include "../../processors/targets.h"
#include "coefficients.h"
#include "output.h"

namespace onnx_cbp {

#define ONNX_CBP_DECLARE(target)                                                                              \
  namespace target {                                                                                          \
  template <typename T, typename V>                                                                           \
  void NormalizePiece(const Layout& layout, const Piece& piece, const NormalizeCoefficients<V>* coefficients, \
                      const T* x, bool relu, const Output<T>& y);                                             \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// Normalises a piece; if relu is set, negative results become zero. coefficients starts at the tensor's first channel.
template <typename T, typename V>
void NormalizePiece(const Layout& layout, const Piece& piece, const NormalizeCoefficients<V>* coefficients, const T* x,
                    bool relu, const Output<T>& y) {
  ONNX_CBP_RETURN_ON_TARGET((layout, piece, coefficients, x, relu, y), NormalizePiece<T, V>);
}

}  // namespace onnx_cbp
