"""The commands of `onnx-cbp`, one file a command."""
