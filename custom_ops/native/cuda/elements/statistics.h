// Vectors of one number per channel, in the type of the statistics. That type is no template parameter: a vector is
// read or written only once per channel, and computations are in double.
#pragma once

#include <cstdint>

#include "../../kernels/element_types.h"
#include "../threads/block.h"

namespace onnx_cbp::cuda {

struct Statistics {
  const void* values = nullptr;
  int type = kFloat;

  ONNX_CBP_DEVICE double operator[](int64_t channel) const {
    return type == kDouble ? static_cast<const double*>(values)[channel]
                           : static_cast<double>(static_cast<const float*>(values)[channel]);
  }
};

// Null if it is not wanted.
struct StatisticsOutput {
  void* values = nullptr;
  int type = kFloat;

  ONNX_CBP_DEVICE void Set(int64_t channel, double value) const {
    if (values == nullptr) return;
    if (type == kDouble) {
      static_cast<double*>(values)[channel] = value;
    } else {
      static_cast<float*>(values)[channel] = static_cast<float>(value);
    }
  }
};

// The value, rounded to the type of a vector.
ONNX_CBP_DEVICE double RoundedTo(int type, double value) {
  return type == kDouble ? value : static_cast<double>(static_cast<float>(value));
}

}  // namespace onnx_cbp::cuda
