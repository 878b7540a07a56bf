"""What makes training artifacts of a forward graph: our own builder, for any onnxruntime, and ONNX Runtime's."""
