#include "../../kernels/batch_norm_train_update.h"

#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kBatchNormTrainUpdate{
    "BatchNormTrainUpdate",
    {formal::kX, formal::kScale, formal::kB, formal::kRunningMean, formal::kRunningVar},
    {formal::kY, formal::kMean, formal::kInvStd, formal::kUpdatedMean, formal::kUpdatedVar},
    {"axis", "epsilon", "momentum", "unbiased", "relu"},
    [](const Call& call) {
      const auto& in = call.inputs;
      const auto& out = call.outputs;
      const Attributes& own = call.attributes;
      return BatchNormTrainUpdate(call.data_type, call.statistics_type, call.executor, call.layout,
                                  static_cast<double>(own.epsilon), own.relu != 0, in[0], in[1], in[2],
                                  {static_cast<double>(own.momentum), own.unbiased != 0, in[3], in[4], out[3], out[4]},
                                  {out[0], out[1], nullptr, out[2]});
    },
};

}  // namespace onnx_cbp
