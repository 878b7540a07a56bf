// Which ReLU stood after a normalisation.
#pragma once

#include "coefficients.h"

namespace onnx_cbp {

// Its result, or the coefficients (from the first channel of the tensor) from which NormalizePiece made what went into
// it: from them its mask is recomputed, which reads one tensor less. None of both: there was no ReLU.
template <typename T, typename V>
struct ReluOf {
  const T* y = nullptr;
  const NormalizeCoefficients<V>* coefficients = nullptr;
};

}  // namespace onnx_cbp
