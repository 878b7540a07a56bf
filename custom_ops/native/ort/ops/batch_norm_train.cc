#include "../../kernels/batch_norm_train.h"

#include "../cuda_call.h"
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
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      const Attributes& own = cuda.call.attributes;
      return cuda.OnTensor(cuda.library.batch_norm_train, static_cast<double>(own.epsilon), in[0], in[1], in[2], out[0],
                           out[1], out[2], cuda.call.output<int64_t>(3));
    },
};

}  // namespace onnx_cbp
