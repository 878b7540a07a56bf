"""`python -m onnx_cbp`: the command line."""

from onnx_cbp.cli import main

if __name__ == "__main__":
    main()
