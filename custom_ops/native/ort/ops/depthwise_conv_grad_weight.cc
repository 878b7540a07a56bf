#include "../../kernels/depthwise_conv_grad_weight.h"

#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kDepthwiseConvGradWeight{
    "DepthwiseConvGradWeight",
    {formal::kX, formal::kDYOfWindows},
    {formal::kDW},
    {"kernel_shape", "strides", "pads", "dilations"},
    [](const Call& call) {
      return DepthwiseConvGradWeight(call.data_type, call.executor, *call.windows, call.inputs[0], call.inputs[1],
                                     call.outputs[0]);
    },
    [](const CudaCall& cuda) {
      const Call& call = cuda.call;
      return cuda.OnWindows(cuda.library.depthwise_conv_grad_weight, call.inputs[0], call.inputs[1], call.outputs[0]);
    },
};

}  // namespace onnx_cbp
