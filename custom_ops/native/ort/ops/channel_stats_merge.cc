#include "../../kernels/channel_stats_merge.h"

#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kChannelStatsMerge{
    "ChannelStatsMerge",
    {{"mean", TypeOf::kStatistics, ShapeOf::kReplicaChannels},
     {"var", TypeOf::kStatistics, ShapeOf::kReplicaChannels},
     {"count", TypeOf::kCount, ShapeOf::kReplicas}},
    {formal::kMean, formal::kVar, formal::kCount},
    {},
    [](const Call& call) {
      const auto& in = call.inputs;
      const auto& out = call.outputs;
      return ChannelStatsMerge(call.statistics_type, call.replicas, call.layout.channels, in[0], in[1],
                               call.input<int64_t>(2), out[0], out[1], static_cast<int64_t*>(out[2]));
    },
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      return cuda.OnVectors(cuda.library.channel_stats_merge, cuda.call.replicas, cuda.call.layout.channels, in[0],
                            in[1], cuda.call.input<int64_t>(2), out[0], out[1], cuda.call.output<int64_t>(2));
    },
};

}  // namespace onnx_cbp
