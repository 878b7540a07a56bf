#include "../../kernels/channel_backprop_stats.h"

#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kChannelBackpropStats{
    "ChannelBackpropStats",
    {formal::kX, formal::kMean, formal::kInvStd, formal::kDY},
    {formal::kScaleGrad, formal::kBiasGrad},
    {"axis"},
    [](const Call& call) {
      const auto& in = call.inputs;
      return ChannelBackpropStats(call.data_type, call.statistics_type, call.executor, call.layout, in[0], in[1], in[2],
                                  in[3], call.outputs[0], call.outputs[1]);
    },
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      return cuda.OnTensor(cuda.library.channel_backprop_stats, in[0], in[1], in[2], in[3], out[0], out[1]);
    },
};

}  // namespace onnx_cbp
