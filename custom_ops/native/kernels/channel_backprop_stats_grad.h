#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// Vector-Jacobian product of ChannelBackpropStats:
//   dx = d_scale_grad * inv_std * dy                       d_mean = -d_scale_grad * inv_std * sum(dy)
//   d_dy = d_scale_grad * inv_std * (x - mean) + d_bias_grad   d_inv_std = d_scale_grad * sum(dy * (x - mean))
// False where a type is unknown.
bool ChannelBackpropStatsGrad(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x,
                              const void* mean, const void* inv_std, const void* dy, const void* d_scale_grad,
                              const void* d_bias_grad, void* dx, void* d_mean, void* d_inv_std, void* d_dy);

}  // namespace onnx_cbp
