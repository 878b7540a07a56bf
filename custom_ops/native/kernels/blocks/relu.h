// The gradient of a ReLU, folded into the kernels that read it.
#pragma once

#include "../lanes.h"

namespace onnx_cbp {

// Lets every gradient pass.
struct NoMask {
  template <typename V>
  V operator()(V gradient, int64_t) const {
    return gradient;
  }
  ONNX_CBP_INLINE Doubles Vector(const Doubles& gradients, int64_t) const { return gradients; }
};

// Lets a gradient pass where the ReLU's result is positive.
template <typename T>
struct ReluMask {
  const T* y;

  template <typename V>
  V operator()(V gradient, int64_t index) const {
    return Load(y[index]) > 0 ? gradient : V(0);
  }
  ONNX_CBP_INLINE Doubles Vector(const Doubles& gradients, int64_t index) const {
    const Doubles zero = {};
    return LoadVector(y + index) > zero ? gradients : zero;
  }
};

}  // namespace onnx_cbp
