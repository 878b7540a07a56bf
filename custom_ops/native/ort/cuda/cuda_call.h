// A call of an op's CUDA kernel: fills in the first arguments, which all of them have.
#pragma once

#include "../op_spec.h"
#include "cuda_library.h"

namespace onnx_cbp {

class CudaCall {
 public:
  CudaCall(const CudaLibrary& functions, onnx_cbp_cuda_queue where, const OpCall& what)
      : library(functions), call(what), queue_(where) {}

  // For a function on a tensor X: queue, types and sizes come first.
  template <typename F, typename... Arguments>
  const char* OnTensor(F function, Arguments... arguments) const {
    return function(queue_, call.data_type, call.statistics_type, call.layout.outer, call.layout.channels,
                    call.layout.inner, arguments...);
  }

  // For a function on a depthwise convolution: queue, type and windows come first.
  template <typename F, typename... Arguments>
  const char* OnDepthwiseWindows(F function, Arguments... arguments) const {
    const Windows& windows = *call.windows;
    int64_t lists[6][Windows::kAxes];
    for (int i = 0; i < Windows::kAxes; ++i) {
      const WindowAxis& axis = windows.axes[i];
      const int64_t numbers[] = {axis.size, axis.kernel, axis.stride, axis.before, axis.after, axis.dilation};
      for (int list = 0; list < 6; ++list) lists[list][i] = numbers[list];
    }
    // The pads of all begins and all ends are in one list.
    return function(queue_, call.data_type, windows.batch, windows.channels, windows.multiplier, Windows::kAxes,
                    lists[0], lists[1], lists[2], lists[3], lists[5], arguments...);
  }

  // For functions on per-channel vectors only: queue, type and sizes come first.
  template <typename F, typename... Arguments>
  const char* OnVectors(F function, Arguments... arguments) const {
    return function(queue_, call.statistics_type, call.layout.channels, arguments...);
  }
  template <typename F, typename... Arguments>
  const char* OnReplicas(F function, Arguments... arguments) const {
    return function(queue_, call.statistics_type, call.replicas, call.layout.channels, arguments...);
  }

  const CudaLibrary& library;
  const OpCall& call;

 private:
  const onnx_cbp_cuda_queue queue_;
};

}  // namespace onnx_cbp
