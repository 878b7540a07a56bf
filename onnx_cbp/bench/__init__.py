"""The benchmark: our kernels against those of ONNX Runtime and PyTorch, in one interleaved run."""

from onnx_cbp.bench.kernels import KERNELS
from onnx_cbp.bench.results import Row, as_document, machine
from onnx_cbp.bench.running import Bench, Settings
from onnx_cbp.bench.runtimes import Runtime, find_runtimes
from onnx_cbp.bench.shapes import ShapeSet, load_shapes, shape_sets

__all__ = [
    "KERNELS",
    "Bench",
    "Row",
    "Runtime",
    "Settings",
    "ShapeSet",
    "as_document",
    "find_runtimes",
    "load_shapes",
    "machine",
    "shape_sets",
]
