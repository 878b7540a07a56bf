#pragma once

#include "element_types.h"
#include "executor.h"
#include "windows.h"

namespace onnx_cbp {

// dw[c * m + j, 0, k] = sum over n and i of dy[n, c * m + j, i] * x[n, c, i * stride + k * dilation - before], with m
// results a channel. False where the type is unknown.
bool DepthwiseConvGradWeight(int type, const Executor& executor, const Windows& windows, const void* x, const void* dy,
                             void* dw);

}  // namespace onnx_cbp
