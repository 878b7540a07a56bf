"""Batch-norm training on ONNX Runtime: right, fast and synchronized."""
