#pragma once

#include <cstdint>

namespace onnx_cbp {

// updated = running * momentum + batch * (1 - momentum); unbiased: batch is multiplied by count /
// (count - 1) first. count = 0 copies running. False where the type is unknown.
bool RunningStats(int stats_type, int64_t channels, double momentum, bool unbiased, const void* running,
                  const void* batch, const int64_t* count, void* updated);

}  // namespace onnx_cbp
