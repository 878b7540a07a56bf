#pragma once

#include "element_types.h"
#include "executor.h"
#include "windows.h"

namespace onnx_cbp {

// y[n, o, i] = sum over c and k of w[o, c, k] * x[n, c, i * stride + k * dilation - before]. Where w is exchanged, it
// is [channels of x, outputs, k...], and its elements are in reverse. False where the type is unknown.
bool DirectConv(int type, const Executor& executor, const Windows& windows, bool exchanged, const void* x,
                const void* w, void* y);

// dw[o, c, k] = sum over n and i of dy[n, o, i] * x[n, c, i * stride + k * dilation - before].
bool ConvGradWeight(int type, const Executor& executor, const Windows& windows, const void* x, const void* dy,
                    void* dw);

}  // namespace onnx_cbp
