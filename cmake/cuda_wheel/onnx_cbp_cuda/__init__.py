"""The CUDA kernels of onnx-cbp, which finds them by this package. There is nothing to call but `get_library_path`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_library_path"]


def get_library_path() -> str:
    """Path of the library of CUDA kernels; in an editable installation it does not lie beside this file."""
    from importlib.resources import files

    return str(Path(str(files(__name__) / "libonnx_cbp_cuda.so")))
