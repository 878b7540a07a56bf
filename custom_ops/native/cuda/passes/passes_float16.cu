// Passes over tensors of float16.
#include "passes_impl.h"

namespace onnx_cbp::cuda {

template struct Passes<Float16, float>;

}  // namespace onnx_cbp::cuda
