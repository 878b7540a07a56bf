#include "../../kernels/batch_norm_train_update.h"

#include "../cuda_call.h"
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
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      const Attributes& own = cuda.call.attributes;
      return cuda.OnTensor(cuda.library.batch_norm_train_update, static_cast<double>(own.epsilon),
                           static_cast<double>(own.momentum), static_cast<int>(own.unbiased != 0),
                           static_cast<int>(own.relu != 0), in[0], in[1], in[2], in[3], in[4], out[0], out[1], out[2],
                           out[3], out[4]);
    },
};

}  // namespace onnx_cbp
