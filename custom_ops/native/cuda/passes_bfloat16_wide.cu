#include "passes_impl.h"

namespace onnx_cbp::cuda {

template struct Passes<BFloat16, double>;

}  // namespace onnx_cbp::cuda
