#include "../../kernels/channel_backprop_stats_grad.h"

#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kChannelBackpropStatsGrad{
    "ChannelBackpropStatsGrad",
    {formal::kX,
     formal::kMean,
     formal::kInvStd,
     formal::kDY,
     {"d_scale_grad", TypeOf::kStatistics, ShapeOf::kChannels},
     {"d_bias_grad", TypeOf::kStatistics, ShapeOf::kChannels}},
    {{"dX", TypeOf::kData, ShapeOf::kData},
     {"d_mean", TypeOf::kStatistics, ShapeOf::kChannels},
     {"d_inv_std", TypeOf::kStatistics, ShapeOf::kChannels},
     {"d_dY", TypeOf::kData, ShapeOf::kData}},
    {"axis"},
    [](const Call& call) {
      const auto& in = call.inputs;
      const auto& out = call.outputs;
      return ChannelBackpropStatsGrad(call.data_type, call.statistics_type, call.executor, call.layout, in[0], in[1],
                                      in[2], in[3], in[4], in[5], out[0], out[1], out[2], out[3]);
    },
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      return cuda.OnTensor(cuda.library.channel_backprop_stats_grad, in[0], in[1], in[2], in[3], in[4], in[5], out[0],
                           out[1], out[2], out[3]);
    },
};

}  // namespace onnx_cbp
