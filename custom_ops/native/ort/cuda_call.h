// A call of an op's CUDA kernel: the arguments that all of them have in front are filled in here.
#pragma once

#include "cuda_library.h"
#include "op_spec.h"

namespace onnx_cbp {

class CudaCall {
 public:
  CudaCall(const CudaLibrary& functions, onnx_cbp_cuda_queue where, const Call& what)
      : library(functions), call(what), queue_(where) {}

  // A function of a tensor X: queue, types and sizes come first.
  template <typename F, typename... Arguments>
  const char* OnTensor(F function, Arguments... arguments) const {
    return function(queue_, call.data_type, call.statistics_type, call.layout.outer, call.layout.channels,
                    call.layout.inner, arguments...);
  }

  // A function of per-channel vectors alone: queue and type come first.
  template <typename F, typename... Arguments>
  const char* OnVectors(F function, Arguments... arguments) const {
    return function(queue_, call.statistics_type, arguments...);
  }

  const CudaLibrary& library;
  const Call& call;

 private:
  const onnx_cbp_cuda_queue queue_;
};

}  // namespace onnx_cbp
