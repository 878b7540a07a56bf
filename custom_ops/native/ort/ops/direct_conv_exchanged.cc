#include "../../kernels/conv.h"
#include "../op_spec.h"

namespace onnx_cbp {

// Without a CUDA kernel: cuDNN's are better.
const OpSpec kDirectConvExchanged{
    "DirectConvExchanged",
    {formal::kX, formal::kExchangedW},
    {formal::kYOfConv},
    {"kernel_shape", "strides", "pads", "dilations"},
    [](const Call& call) {
      return DirectConv(call.data_type, call.executor, *call.windows, true, call.inputs[0], call.inputs[1],
                        call.outputs[0]);
    },
};

}  // namespace onnx_cbp
