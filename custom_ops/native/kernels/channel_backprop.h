#pragma once

#include <vector>

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// dx = scale * inv_std * (dy - bias_grad / count - (x - mean) * inv_std * scale_grad / count).
// False where a type is unknown.
bool ChannelBackprop(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                     const void* x, const void* scale, const void* mean, const void* inv_std, const void* scale_grad,
                     const void* bias_grad, const int64_t* count, void* dx);

// The same from vectors in double. stats_type is the type of the statistics in the graph; with x_type it tells what is
// computed in.
bool Backprop(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy, const void* x,
              const std::vector<double>& scale, const std::vector<double>& mean, const std::vector<double>& inv_std,
              const std::vector<double>& scale_grad, const std::vector<double>& bias_grad, int64_t count, void* dx);

}  // namespace onnx_cbp
