#include "../../kernels/batch_norm_grad.h"
#include "../cuda_call.h"
#include "../op_spec.h"

namespace onnx_cbp {

const OpSpec kBatchNormReluGrad{
    "BatchNormReluGrad",
    {formal::kDY, formal::kY, formal::kX, formal::kScale, formal::kMean, formal::kInvStd},
    {formal::kDX, formal::kScaleGrad, formal::kBiasGrad},
    {"axis"},
    [](const Call& call) {
      const auto& in = call.inputs;
      const auto& out = call.outputs;
      return BatchNormGrad(call.data_type, call.statistics_type, call.executor, call.layout, in[0], {in[1]}, in[2],
                           in[3], in[4], in[5], out[0], out[1], out[2]);
    },
    [](const CudaCall& cuda) {
      const auto& in = cuda.call.inputs;
      const auto& out = cuda.call.outputs;
      return cuda.OnTensor(cuda.library.batch_norm_relu_grad, in[0], in[1], in[2], in[3], in[4], in[5], out[0], out[1],
                           out[2]);
    },
};

}  // namespace onnx_cbp
