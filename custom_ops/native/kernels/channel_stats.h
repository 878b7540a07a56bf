#pragma once

#include "element_types.h"
#include "executor.h"
#include "partition.h"

namespace onnx_cbp {

// mean[C] and var[C] (biased) of x, in the statistics type; *count = outer * inner. Zeros where x
// is empty. False where a type is unknown.
bool ChannelStats(int x_type, int stats_type, const Executor& executor, const Layout& layout, const void* x, void* mean,
                  void* var, int64_t* count);

}  // namespace onnx_cbp
