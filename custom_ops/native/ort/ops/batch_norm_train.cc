#include "../../kernels/batch_norm_train.h"

#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kBatchNormTrain{
    "BatchNormTrain",
    {formal::kX, formal::kScale, formal::kB},
    {formal::kY, formal::kMean, formal::kVar, formal::kCount},
    {"axis", "epsilon"},
    [](const Call& call) {
      const auto& in = call.inputs;
      const auto& out = call.outputs;
      *static_cast<int64_t*>(out[3]) = call.layout.outer * call.layout.inner;
      return BatchNormTrain(call.data_type, call.statistics_type, call.executor, call.layout,
                            static_cast<double>(call.attributes.epsilon), false, in[0], in[1], in[2],
                            {out[0], out[1], out[2], nullptr});
    },
};

}  // namespace onnx_cbp
