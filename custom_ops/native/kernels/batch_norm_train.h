#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// ChannelStats and ChannelNormalize in one; y is made from mean and variance in double, before they are rounded to
// the statistics type. False where a type is unknown.
bool BatchNormTrain(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                    const void* x, const void* scale, const void* b, void* y, void* mean, void* var, int64_t* count);

}  // namespace onnx_cbp
