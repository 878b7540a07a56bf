#include "passes_impl.h"

namespace onnx_cbp::cuda {

template struct Passes<Float16, double>;

}  // namespace onnx_cbp::cuda
