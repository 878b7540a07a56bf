// A tensor that a kernel writes.
#pragma once

namespace onnx_cbp {

template <typename T>
struct Output {
  T* elements;
  // Whether to write past the caches: for a tensor so large that it would push everything else out of them.
  bool stream;
};

}  // namespace onnx_cbp
