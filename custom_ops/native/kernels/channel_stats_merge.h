#pragma once

#include <cstdint>

namespace onnx_cbp {

// Statistics of a batch from those of its parts: mean[R, C] and var[R, C] of parts with count[R] elements per channel.
// A part without elements is not read; all empty gives zeros. False where the type is unknown.
bool ChannelStatsMerge(int stats_type, int64_t replicas, int64_t channels, const void* mean, const void* var,
                       const int64_t* count, void* merged_mean, void* merged_var, int64_t* merged_count);

}  // namespace onnx_cbp
