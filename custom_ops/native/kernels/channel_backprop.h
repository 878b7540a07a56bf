#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// dx = scale * inv_std * (dy - bias_grad / count - (x - mean) * inv_std * scale_grad / count).
// False where a type is unknown.
bool ChannelBackprop(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* dy,
                     const void* x, const void* scale, const void* mean, const void* inv_std, const void* scale_grad,
                     const void* bias_grad, const int64_t* count, void* dx);

}  // namespace onnx_cbp
