// What the attributes of a convolution and the sizes of its data make of its windows.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "windows.h"

namespace onnx_cbp {

// The attributes of a convolution, as ONNX has them: for each axis of space a number; pads begins, then ends. Null
// stands for the default.
struct WindowAttributes {
  const int64_t* kernel_shape;
  const int64_t* strides;
  const int64_t* pads;
  const int64_t* dilations;
};

// Fills the axes from so many sizes of space. Returns null, or what is wrong in one line.
inline const char* SetWindows(int64_t axes, const int64_t* sizes, const WindowAttributes& attributes,
                              Windows* windows) {
  constexpr int64_t kLargest = int64_t{1} << 40;  // beyond this, sizes of padded data could not be counted
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
