// Sums or means over the replicas of a group.
#pragma once

#include <cstdint>
#include <string>

#include "communicator.h"

namespace onnx_cbp {

// "mean" is, "sum" is not; anything else throws CollectiveError.
bool IsMean(const std::string& reduction);

// Both vectors [channels] of statistics type U, in one message of doubles. False where the type is unknown; throws
// CollectiveError.
bool AllReduce(const Collective& collective, int stats_type, int64_t channels, bool mean, const void* scale_grad,
               const void* bias_grad, void* reduced_scale_grad, void* reduced_bias_grad);

// One vector of type U, in a message of that type.
bool AllReduceBucket(const Collective& collective, int stats_type, int64_t elements, bool mean, const void* bucket,
                     void* reduced);

}  // namespace onnx_cbp
