#include "../../kernels/running_stats.h"

#include "../cuda_call.h"
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
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      const Attributes& own = cuda.call.attributes;
      return cuda.OnVectors(cuda.library.running_stats, cuda.call.layout.channels, static_cast<double>(own.momentum),
                            static_cast<int>(own.unbiased != 0), in[0], in[1], cuda.call.input<int64_t>(2), out[0]);
    },
};

}  // namespace onnx_cbp
