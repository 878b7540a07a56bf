#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// scale_grad[C] = sum(dy * (x - mean) * inv_std) and bias_grad[C] = sum(dy), summed in double and
// rounded once. Zeros where x is empty. False where a type is unknown.
bool ChannelBackpropStats(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x,
                          const void* mean, const void* inv_std, const void* dy, void* scale_grad, void* bias_grad);

}  // namespace onnx_cbp
