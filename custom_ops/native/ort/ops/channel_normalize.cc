#include "../../kernels/channel_normalize.h"

#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kChannelNormalize{
    "ChannelNormalize",
    {formal::kX, formal::kScale, formal::kB, formal::kMean, formal::kVar},
    {formal::kY},
    {"axis", "epsilon"},
    [](const Call& call) {
      const auto& in = call.inputs;
      return ChannelNormalize(call.data_type, call.statistics_type, call.executor, call.layout,
                              static_cast<double>(call.attributes.epsilon), in[0], in[1], in[2], in[3], in[4],
                              call.outputs[0]);
    },
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      const Attributes& own = cuda.call.attributes;
      return cuda.OnTensor(cuda.library.channel_normalize, static_cast<double>(own.epsilon), in[0], in[1], in[2], in[3],
                           in[4], out[0]);
    },
};

}  // namespace onnx_cbp
