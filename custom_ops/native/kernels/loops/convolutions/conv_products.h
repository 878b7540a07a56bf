// The gradient of a dense convolution's weight, step by step.
#pragma once

#include <cstdint>

#include "../../convolutions/conv_plan.h"
#include "../../processors/targets.h"

namespace onnx_cbp {

#define ONNX_CBP_DECLARE(target)                                                                              \
  namespace target {                                                                                          \
  template <typename T, typename V>                                                                           \
  void ConvProducts(const ConvPlan& plan, int64_t step, int64_t first, int64_t last, const T* x, const T* dy, \
                    V* scratch, V* sums);                                                                     \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// Adds one step's part of the weight's gradient to `sums`, which are [block of outputs, from `first` up to
// `last`][block of channels][element of the window][channel of the block][output of the block].
template <typename T, typename V>
void ConvProducts(const ConvPlan& plan, int64_t step, int64_t first, int64_t last, const T* x, const T* dy, V* scratch,
                  V* sums) {
  ONNX_CBP_RETURN_ON_TARGET((plan, step, first, last, x, dy, scratch, sums), ConvProducts<T, V>);
}

}  // namespace onnx_cbp
