// Passes over tensors of double.
#include "passes_impl.h"

namespace onnx_cbp::cuda {

template struct Passes<double, double>;

}  // namespace onnx_cbp::cuda
