"""Random inputs that are valid for a graph, also for training graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from onnx_cbp.checking.feeding.roles import Kind, Role
from onnx_cbp.checking.graphs import dimensions, fed_inputs
from onnx_cbp.errors import OnnxCbpError

_TYPES: dict[int, type[np.generic]] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.INT8: np.int8,
    onnx.TensorProto.INT16: np.int16,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.INT64: np.int64,
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.UINT16: np.uint16,
    onnx.TensorProto.UINT32: np.uint32,
    onnx.TensorProto.UINT64: np.uint64,
    onnx.TensorProto.BOOL: np.bool_,
}


def make_inputs(model: onnx.ModelProto, roles: Mapping[str, Role], seed: int, batch: int) -> dict[str, np.ndarray]:
    """An array for every input that a caller must give.

    Raises:
        OnnxCbpError: an input has a type that numpy and ONNX Runtime do not share, or an unknown rank.
    """
    generator = np.random.default_rng(seed)
    return {
        value.name: _array(generator, roles[value.name], *_type_and_shape(value, batch)) for value in fed_inputs(model)
    }


def _type_and_shape(value: onnx.ValueInfoProto, batch: int) -> tuple[type[np.generic], tuple[int, ...]]:
    if not value.type.HasField("tensor_type"):
        kind = (value.type.WhichOneof("value") or "unknown").removesuffix("_type")
        raise OnnxCbpError(f"input '{value.name}' is no tensor ({kind}): random values can be made for tensors only")
    tensor = value.type.tensor_type
    if tensor.elem_type not in _TYPES:
        name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise OnnxCbpError(
            f"input '{value.name}' has type {name}: random values cannot be made for it; give the model a float input "
            "and a Cast"
        )
    if not tensor.HasField("shape"):
        raise OnnxCbpError(
            f"input '{value.name}' has no shape, so no random values can be made for it: state its shape in the model "
            "(a symbol for each dimension is enough)"
        )
    shape = tuple(d if isinstance(d, int) else batch for d in dimensions(tensor.shape))
    return _TYPES[tensor.elem_type], shape


def _array(generator: np.random.Generator, role: Role, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    if role.kind is Kind.OVERWRITE:
        return np.ones(shape, dtype)
    if role.kind is Kind.BUFFER and not role.overwritten:
        return np.zeros(shape, dtype)
    if not issubclass(dtype, np.floating):
        limit = role.limit if role.kind is Kind.INDEX else 2
        return np.asarray(generator.integers(0, limit, shape)).astype(dtype)
    values = np.asarray(generator.standard_normal(shape))
    if role.kind is Kind.VARIANCE:
        values = np.abs(values) + 0.5
    elif role.kind is Kind.SCALE:
        values = 1 + values / 4
    elif role.kind is Kind.WEIGHT:
        # As networks are initialised: without batch norms, activations neither vanish nor overflow.
        values = values / math.sqrt(max(math.prod(shape[1:]), 1))
    elif role.kind is Kind.INDEX:
        values = np.zeros(shape)  # an index stored as a float, which the graph casts
    return np.asarray(values).astype(dtype)
