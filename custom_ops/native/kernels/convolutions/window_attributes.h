// Computes the windows of a convolution from its attributes and the sizes of its data.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "windows.h"

namespace onnx_cbp {

// The attributes of a convolution, as in ONNX: one number for each axis of space, and for pads all begins, then all
// ends. Null stands for the default.
struct WindowAttributes {
  const int64_t* kernel_shape;
  const int64_t* strides;
  const int64_t* pads;
  const int64_t* dilations;
};

// Fills the axes from this many sizes of space. Returns null, or one line that says what is wrong.
inline const char* SetWindows(int64_t axes, const int64_t* sizes, const WindowAttributes& attributes,
                              Windows* windows) {
  constexpr int64_t kLargest = int64_t{1} << 40;  // the elements of larger padded data could not be counted
  if (axes < 1 || axes > Windows::kAxes) return "a convolution has one to three axes of space";
  for (int64_t i = 0; i < axes; ++i) {
    WindowAxis axis;
    axis.size = sizes[i];
    axis.kernel = attributes.kernel_shape[i];
    if (attributes.strides != nullptr) axis.stride = attributes.strides[i];
    if (attributes.dilations != nullptr) axis.dilation = attributes.dilations[i];
    if (attributes.pads != nullptr) {
      axis.before = attributes.pads[i];
      axis.after = attributes.pads[axes + i];
    }
    for (const int64_t number : {axis.size, axis.kernel, axis.stride, axis.dilation, axis.before, axis.after}) {
      if (number < 0) return "a size is negative";
      if (number > kLargest) return "the tensor has more elements than an int64 can count";
    }
    if (axis.kernel == 0 || axis.stride == 0 || axis.dilation == 0) {
      return "kernel_shape, strides and dilations are 1 or more";
    }
    if (axis.kernel - 1 > kLargest / axis.dilation) return "the tensor has more elements than an int64 can count";
    const int64_t room = axis.before + axis.size + axis.after - axis.extent();
    if (room < 0 || axis.size == 0) return "the window is larger than the padded data";
    axis.count = room / axis.stride + 1;
    windows->axes[Windows::kAxes - axes + i] = axis;
  }
  return nullptr;
}

}  // namespace onnx_cbp
