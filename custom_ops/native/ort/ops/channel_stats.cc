#include "../../kernels/channel_stats.h"

#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kChannelStats{
    "ChannelStats",
    {formal::kX},
    {formal::kMean, formal::kVar, formal::kCount},
    {"axis", "stash_type"},
    [](const Call& call) {
      return ChannelStats(call.data_type, call.statistics_type, call.executor, call.layout, call.inputs[0],
                          call.outputs[0], call.outputs[1], static_cast<int64_t*>(call.outputs[2]));
    },
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      return cuda.OnTensor(cuda.library.channel_stats, in[0], out[0], out[1], cuda.call.output<int64_t>(2));
    },
};

}  // namespace onnx_cbp
