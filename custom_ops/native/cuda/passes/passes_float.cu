// Passes over tensors of float, with arithmetic in float.
#include "passes_impl.h"

namespace onnx_cbp::cuda {

template struct Passes<float, float>;

}  // namespace onnx_cbp::cuda
