// Infers types and shapes, for ONNX Runtime's own inference.
#pragma once

#include "op_spec.h"
#include "ort_api.h"

namespace onnx_cbp {

// Infers types and shapes of an op's outputs from those of its inputs; what is unknown stays unknown.
void InferShapes(const OpSpec& spec, OrtShapeInferContext* context);

}  // namespace onnx_cbp
