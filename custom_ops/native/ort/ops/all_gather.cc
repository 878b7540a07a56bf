#include "../../collectives/all_gather.h"

#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kAllGather{
    "AllGather",
    {formal::kMean, formal::kVar, formal::kCount},
    {{"mean", TypeOf::kStatistics, ShapeOf::kReplicaChannels},
     {"var", TypeOf::kStatistics, ShapeOf::kReplicaChannels},
     {"count", TypeOf::kCount, ShapeOf::kReplicas}},
    {"group", "layer"},
    [](const Call& call) {
      const auto& in = call.inputs;
      const auto& out = call.outputs;
      return AllGather(*call.collective, call.statistics_type, call.layout.channels, call.replicas, in[0], in[1],
                       call.input<int64_t>(2), out[0], out[1], static_cast<int64_t*>(out[2]));
    },
    nullptr,
    true,
};

}  // namespace onnx_cbp
