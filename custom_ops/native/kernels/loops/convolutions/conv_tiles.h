#pragma once

#include <cstdint>

#include "../../convolutions/conv_plan.h"
#include "../../processors/targets.h"

namespace onnx_cbp {

// What a step of a convolution needs room for, in numbers of V: the padded data, and results before they are stored.
ONNX_CBP_INLINE int64_t ConvBuffered(const ConvPlan& plan) {
  constexpr int64_t kBuffered = 64;  // results of a channel that are stored together, where rows are shorter
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

// The results of one step, of the blocks of outputs from `first` to `last`. `weights` are packed:
// [block][channel][element of the window][kConvLanes].
template <typename T, typename V>
void ConvTiles(const ConvPlan& plan, int64_t step, int64_t first, int64_t last, const T* x, const V* weights,
               V* scratch, T* y) {
  ONNX_CBP_RETURN_ON_TARGET((plan, step, first, last, x, weights, scratch, y), ConvTiles<T, V>);
}

}  // namespace onnx_cbp
