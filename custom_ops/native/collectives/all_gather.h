// The statistics of every replica of a group, by rank.
#pragma once

#include <cstdint>

#include "communicator.h"

namespace onnx_cbp {

// mean, var [channels] of statistics type U and count -> means, vars [replicas, channels] and counts [replicas];
// `replicas` is what collective.Replicas() answered. One message: mean, var and count as doubles. False where the type
// is unknown; throws CollectiveError.
bool AllGather(const Collective& collective, int stats_type, int64_t channels, int64_t replicas, const void* mean,
               const void* var, const int64_t* count, void* means, void* vars, int64_t* counts);

}  // namespace onnx_cbp
