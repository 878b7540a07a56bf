// The sums of ChannelBackpropStats, piece by piece.
#pragma once

#include "../../channels/merge.h"
#include "../../dividing/partition.h"
#include "../../processors/targets.h"
#include "relu_of.h"

namespace onnx_cbp {

#define ONNX_CBP_DECLARE(target)                                                                        \
  namespace target {                                                                                    \
  template <typename T, typename V>                                                                     \
  void PieceSums(const Layout& layout, const Piece& piece, const T* x, const double* mean, const T* dy, \
                 const ReluOf<T, V>& relu, Sums* sums);                                                 \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// The sums of every channel of a piece, in double; mean starts at the tensor's first channel. dy counts only where the
// ReLU lets it pass.
template <typename T, typename V>
void PieceSums(const Layout& layout, const Piece& piece, const T* x, const double* mean, const T* dy,
               const ReluOf<T, V>& relu, Sums* sums) {
  ONNX_CBP_RETURN_ON_TARGET((layout, piece, x, mean, dy, relu, sums), PieceSums<T, V>);
}

}  // namespace onnx_cbp
