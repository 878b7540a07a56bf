// The results of a dense convolution, step by step.
#pragma once

#include <cstdint>

#include "../../convolutions/conv_plan.h"
#include "../../processors/targets.h"

namespace onnx_cbp {

// How many results of a channel are buffered before they are stored: a row, or more where rows are short.
ONNX_CBP_INLINE int64_t ConvBuffered(const ConvPlan& plan) {
  constexpr int64_t kBuffered = 64;  // short rows are stored together, so many results at a time
  const int64_t columns = plan.windows.axes[2].count;
  return columns < kBuffered ? kBuffered / columns * columns : columns;
}

#define ONNX_CBP_DECLARE(target)                                                                                \
  namespace target {                                                                                            \
  template <typename T, typename V>                                                                             \
  void ConvTiles(const ConvPlan& plan, int64_t step, int64_t first, int64_t last, const T* x, const V* weights, \
                 V* scratch, T* y);                                                                             \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// Computes the results of one step, for the blocks of outputs from `first` up to `last`. `weights` are packed:
// [block][channel][element of the window][kConvLanes].
template <typename T, typename V>
void ConvTiles(const ConvPlan& plan, int64_t step, int64_t first, int64_t last, const T* x, const V* weights,
               V* scratch, T* y) {
  ONNX_CBP_RETURN_ON_TARGET((plan, step, first, last, x, weights, scratch, y), ConvTiles<T, V>);
}

}  // namespace onnx_cbp
