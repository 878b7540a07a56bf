"""The types of X that are measured."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import TensorProto

#: As numpy types; bfloat16 is an extension type there, which no library accepts from numpy.
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
#: As ONNX's numbers.
NUMBERS: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
}


def statistics_type(data: str) -> str:
    """The type of scale, B and the statistics."""
    return "float64" if data == "float64" else "float32"


def type_in_files(data: str) -> str:
    """The type with the same values in files: bfloat16 is stored and passed as float32."""
    return "float32" if data == "bfloat16" else data
