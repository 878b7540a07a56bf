// The windows of a convolution along three axes of space. Data with fewer axes gets more in front, of one element each.
#pragma once

#include <cstdint>

#include "../processors/targets.h"

namespace onnx_cbp {

struct WindowAxis {
  int64_t size = 1;    // elements of the data
  int64_t count = 1;   // windows
  int64_t kernel = 1;  // elements of a window
  int64_t stride = 1, dilation = 1;
  int64_t before = 0, after = 0;  // padding, of zeros

  // From a window's first element to its last, both counted.
  ONNX_CBP_INLINE int64_t extent() const { return dilation * (kernel - 1) + 1; }
  // How long the padded data is, as far as windows or data reach.
  ONNX_CBP_INLINE int64_t padded() const {
    const int64_t seen = (count - 1) * stride + extent(), there = before + size;
    return seen > there ? seen : there;
  }
};

struct Windows {
  static constexpr int kAxes = 3;

  int64_t batch = 0;
  int64_t channels = 0;    // of the data
  int64_t multiplier = 1;  // results per channel
  bool dense = false;      // a dense convolution: one group, so that every result depends on all channels
  int64_t outputs = 0;     // results of a dense convolution
  WindowAxis axes[kAxes];

  ONNX_CBP_INLINE int64_t results() const { return dense ? outputs : channels * multiplier; }
  // Of one channel of one sample: elements and windows; then the elements of a window.
  ONNX_CBP_INLINE int64_t size() const { return axes[0].size * axes[1].size * axes[2].size; }
  ONNX_CBP_INLINE int64_t count() const { return axes[0].count * axes[1].count * axes[2].count; }
  ONNX_CBP_INLINE int64_t kernel() const { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
};

}  // namespace onnx_cbp
