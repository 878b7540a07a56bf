#include "../../collectives/all_reduce.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kAllReduceBucket{
    "AllReduceBucket",
    {{"bucket", TypeOf::kStatistics, ShapeOf::kChannels}},
    {{"reduced", TypeOf::kStatistics, ShapeOf::kChannels}},
    {"group", "reduction", "layer"},
    [](const Call& call) {
      return AllReduceBucket(*call.collective, call.statistics_type, call.layout.channels,
                             IsMean(call.attributes.reduction), call.inputs[0], call.outputs[0]);
    },
    nullptr,
    true,
};

}  // namespace onnx_cbp
