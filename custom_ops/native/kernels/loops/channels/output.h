// A tensor that is written.
#pragma once

namespace onnx_cbp {

template <typename T>
struct Output {
  T* elements;
  // Past the caches: for what would push everything else out of them.
  bool stream;
};

}  // namespace onnx_cbp
