"""`python -m onnx_cbp.cli`."""

from onnx_cbp.cli import main

main()
