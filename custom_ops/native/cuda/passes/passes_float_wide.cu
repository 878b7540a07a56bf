// Passes over tensors of float, with arithmetic in double.
#include "passes_impl.h"

namespace onnx_cbp::cuda {

template struct Passes<float, double>;

}  // namespace onnx_cbp::cuda
