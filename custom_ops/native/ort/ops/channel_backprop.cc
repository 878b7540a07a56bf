#include "../../kernels/channel_backprop.h"

#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kChannelBackprop{
    "ChannelBackprop",
    {formal::kDY, formal::kX, formal::kScale, formal::kMean, formal::kInvStd, formal::kScaleGrad, formal::kBiasGrad,
     formal::kCount},
    {formal::kDX},
    {"axis"},
    [](const Call& call) {
      const auto& in = call.inputs;
      return ChannelBackprop(call.data_type, call.statistics_type, call.executor, call.layout, in[0], in[1], in[2],
                             in[3], in[4], in[5], in[6], call.input<int64_t>(7), call.outputs[0]);
    },
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      return cuda.OnTensor(cuda.library.channel_backprop, in[0], in[1], in[2], in[3], in[4], in[5], in[6],
                           cuda.call.input<int64_t>(7), out[0]);
    },
};

}  // namespace onnx_cbp
