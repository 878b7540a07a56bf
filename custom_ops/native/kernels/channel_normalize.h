#pragma once

#include <vector>

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// y = (x - mean) * (scale / sqrt(var + epsilon)) + b. False where a type is unknown.
bool ChannelNormalize(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
                      const void* x, const void* scale, const void* b, const void* mean, const void* var, void* y);

// The same from vectors in double, which are used as they are: a mean that is not rounded to x's type keeps y's digits
// at a large offset. stats_type is the type of the statistics in the graph; with x_type it tells what is computed in.
bool Normalize(int x_type, int stats_type, const Executor& executor, const Layout& layout, double epsilon,
               const void* x, const std::vector<double>& scale, const std::vector<double>& b,
               const std::vector<double>& mean, const std::vector<double>& var, void* y);

}  // namespace onnx_cbp
