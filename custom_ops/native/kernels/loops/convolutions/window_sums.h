// The weight gradient of a depthwise convolution, part by part.
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

// For each element of a window and each lane the sum of dy times what it sees of x, over the steps of a part, for a
// block of channels: those of the task. scratch has room for plan.scratch() numbers.
template <typename T, typename V>
void WindowSums(const WindowPlan& plan, int64_t task, const T* x, const T* dy, V* scratch, double* sums) {
  ONNX_CBP_RETURN_ON_TARGET((plan, task, x, dy, scratch, sums), WindowSums<T, V>);
}

}  // namespace onnx_cbp
