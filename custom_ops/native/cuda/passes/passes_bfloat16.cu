// Passes over tensors of bfloat16.
#include "passes_impl.h"

namespace onnx_cbp::cuda {

template struct Passes<BFloat16, float>;

}  // namespace onnx_cbp::cuda
