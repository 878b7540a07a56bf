#include "../../collectives/all_reduce.h"

#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kAllReduce{
    "AllReduce",
    {formal::kScaleGrad, formal::kBiasGrad},
    {formal::kScaleGrad, formal::kBiasGrad},
    {"group", "reduction", "layer"},
    [](const Call& call) {
      return AllReduce(*call.collective, call.statistics_type, call.layout.channels, IsMean(call.attributes.reduction),
                       call.inputs[0], call.inputs[1], call.outputs[0], call.outputs[1]);
    },
    nullptr,
    true,
};

}  // namespace onnx_cbp
