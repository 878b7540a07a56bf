"""The builders of training artifacts: our own, for any onnxruntime, and the call of ONNX Runtime's."""
