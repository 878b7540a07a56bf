#include "../../kernels/running_stats.h"

#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kRunningStats{
    "RunningStats",
    {{"running", TypeOf::kStatistics, ShapeOf::kChannels},
     {"batch", TypeOf::kStatistics, ShapeOf::kChannels},
     formal::kCount},
    {{"updated", TypeOf::kStatistics, ShapeOf::kChannels}},
    {"momentum", "unbiased"},
    [](const Call& call) {
      return RunningStats(call.statistics_type, call.layout.channels, static_cast<double>(call.attributes.momentum),
                          call.attributes.unbiased != 0, call.inputs[0], call.inputs[1], call.input<int64_t>(2),
                          call.outputs[0]);
    },
};

}  // namespace onnx_cbp
