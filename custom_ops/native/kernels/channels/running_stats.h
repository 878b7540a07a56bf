// How running statistics move.
#pragma once

#include <cstdint>

#include "../processors/targets.h"

namespace onnx_cbp {

// Computes an updated running statistic in double; `elements` is the number of elements behind the batch's statistic.
struct RunningRule {
  double momentum = 0.0;
  bool unbiased = false;

  ONNX_CBP_INLINE double Updated(double running, double batch, double elements) const {
    if (elements == 0.0) return running;
    const double others = elements - 1.0;
    const double factor = unbiased ? elements / (others < 1.0 ? 1.0 : others) : 1.0;
    return running * momentum + batch * factor * (1.0 - momentum);
  }
};

// Moves a vector of running statistics (type stats_type), for a batch with this many elements per channel. False if the
// type is unknown.
bool MoveRunning(int stats_type, int64_t channels, const RunningRule& rule, int64_t elements, const void* running,
                 const void* batch, void* updated);

}  // namespace onnx_cbp
