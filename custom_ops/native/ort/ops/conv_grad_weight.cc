#include "../../kernels/conv.h"
#include "../op_spec.h"

namespace onnx_cbp {

// Without a CUDA kernel: cuDNN's are better.
const OpSpec kConvGradWeight{
    "ConvGradWeight",
    {formal::kX, formal::kDYOfConv},
    {formal::kDWOfConv},
    {"kernel_shape", "strides", "pads", "dilations"},
    [](const Call& call) {
      return ConvGradWeight(call.data_type, call.executor, *call.windows, call.inputs[0], call.inputs[1],
                            call.outputs[0]);
    },
};

}  // namespace onnx_cbp
