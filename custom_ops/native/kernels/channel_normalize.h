#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// y = (x - mean) * (scale / sqrt(var + epsilon)) + b. False where a type is unknown.
bool ChannelNormalize(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                      const void* x, const void* scale, const void* b, const void* mean, const void* var, void* y);

}  // namespace onnx_cbp
