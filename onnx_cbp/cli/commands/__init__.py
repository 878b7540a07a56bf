"""The commands of `onnx-cbp`, one file per command."""
