// Which ReLU came after a normalisation.
#pragma once

#include "coefficients.h"

namespace onnx_cbp {

// Either the ReLU's result, or the coefficients (from the tensor's first channel on) with which NormalizePiece computed
// the ReLU's input. From the coefficients the mask is recomputed, which reads one tensor less. If both are null, there
// was no ReLU.
template <typename T, typename V>
struct ReluOf {
  const T* y = nullptr;
  const NormalizeCoefficients<V>* coefficients = nullptr;
};

}  // namespace onnx_cbp
