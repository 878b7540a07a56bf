// The gradient of a depthwise convolution's weight, part by part.
#pragma once

#include "../../convolutions/window_plan.h"
#include "../../element_types.h"
#include "../../processors/targets.h"

namespace onnx_cbp {

#define ONNX_CBP_DECLARE(target)                                                                            \
  namespace target {                                                                                        \
  template <typename T, typename V>                                                                         \
  void WindowSums(const WindowPlan& plan, int64_t task, const T* x, const T* dy, V* scratch, double* sums); \
  }
ONNX_CBP_FOR_EACH_TARGET(ONNX_CBP_DECLARE)
#undef ONNX_CBP_DECLARE

// For each element of the window and each lane, the sum of dy times the element of x that the window sees there. A task
// does this for one part of the steps and one block of channels. scratch has room for plan.scratch() numbers.
template <typename T, typename V>
void WindowSums(const WindowPlan& plan, int64_t task, const T* x, const T* dy, V* scratch, double* sums) {
  ONNX_CBP_RETURN_ON_TARGET((plan, task, x, dy, scratch, sums), WindowSums<T, V>);
}

}  // namespace onnx_cbp
