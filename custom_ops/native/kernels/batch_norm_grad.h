#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// ChannelBackpropStats and ChannelBackprop in one pass over groups of channels, with the count of x itself; dx is made
// from the sums in double, before they are rounded to the statistics type. Where y is given, dy counts only where y is
// positive: the gradient of a ReLU whose result is y. False where a type is unknown.
bool BatchNormGrad(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                   const void* y, const void* x, const void* scale, const void* mean, const void* inv_std, void* dx,
                   void* scale_grad, void* bias_grad);

}  // namespace onnx_cbp
