// Mean and variance, piece by piece.
#pragma once

#include "../../channels/merge.h"
#include "../../dividing/partition.h"
#include "../../processors/targets.h"

namespace onnx_cbp {

#define ONNX_CBP_DECLARE(target)                                                             \
  namespace target {                                                                         \
  template <typename T, typename V>                                                          \
  void PieceMoments(const Layout& layout, const Piece& piece, const T* x, Moments* moments); \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// The moments of every channel of a piece. Sums relative to a pivot are computed in double; if V is float, short runs
// are summed in float.
template <typename T, typename V>
void PieceMoments(const Layout& layout, const Piece& piece, const T* x, Moments* moments) {
  ONNX_CBP_RETURN_ON_TARGET((layout, piece, x, moments), PieceMoments<T, V>);
}

}  // namespace onnx_cbp
