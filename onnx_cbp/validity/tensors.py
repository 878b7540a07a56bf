"""Checks that the data of tensors fit their types and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import TensorProto

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.walking import called, graphs, scopes

_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
#: The field for values of each type where they are not raw, and how many of its entries make one value.
_IN_INT32 = ["INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL", "FLOAT16", "BFLOAT16"]
_IN_INT32 += ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"]
_FIELD = dict.fromkeys(_IN_INT32, ("int32_data", 1.0))
_FIELD |= dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), ("int32_data", 0.5))
_FIELD |= dict.fromkeys(("UINT32", "UINT64"), ("uint64_data", 1.0))
_FIELD |= {"FLOAT": ("float_data", 1.0), "COMPLEX64": ("float_data", 2.0), "INT64": ("int64_data", 1.0)}
_FIELD |= {"DOUBLE": ("double_data", 1.0), "COMPLEX128": ("double_data", 2.0), "STRING": ("string_data", 1.0)}
_BITS = {"INT64": 64, "UINT64": 64, "DOUBLE": 64, "COMPLEX64": 64, "COMPLEX128": 128}
_BITS |= {"FLOAT": 32, "INT32": 32, "UINT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "INT16": 16, "UINT16": 16}
_BITS |= {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4}
_BYTE = 8  # bits, and those of every other type that is known here


def check_tensors(model: onnx.ModelProto) -> None:
    """Check every initializer, and every tensor that is an attribute.

    Raises:
        OnnxCbpError: a type that is none, a negative size, or another number of values than the shape says.
    """
    for scope in scopes(model):
        for graph in graphs(scope):
            if isinstance(graph, onnx.GraphProto):
                _check_initializers(graph)
            for node in graph.node:
                for tensor in _attributes(node):
                    reason = _fault(tensor)
                    if reason is not None:
                        raise _error(f"a tensor of {called(node)} {reason}")


def _check_initializers(graph: onnx.GraphProto) -> None:
    declared = {value.name: value for value in graph.input}  # what else the graph says of one, a tensor itself says
    for tensor in graph.initializer:
        reason = _fault(tensor) or _disagrees(tensor, declared.get(tensor.name))
        if reason is not None:
            raise _error(f"the initializer '{tensor.name}' {reason}")


def _attributes(node: onnx.NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        is_said = attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name
        if attribute.HasField("t") or is_said:  # one that is not there has no type
            yield attribute.t
        yield from attribute.tensors


def _error(reason: str) -> OnnxCbpError:
    return OnnxCbpError(f"the model is not valid ONNX: {reason}")


def _fault(tensor: TensorProto) -> str | None:
    """What is wrong with a tensor, in one clause; None if nothing is."""
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        return f"has the data type {tensor.data_type}, which is none of ONNX's"
    name = TensorProto.DataType.Name(tensor.data_type)
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}, with a negative size"
    if tensor.data_location == TensorProto.EXTERNAL:
        return None
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        if name == "STRING":
            return "has raw data, which text has not"
        if name not in _FIELD:
            return None
        have, wanted = len(tensor.raw_data), -(-elements * _BITS.get(name, _BYTE) // _BYTE)
        what = "bytes of data"
    elif name not in _FIELD:
        return None  # a type that is newer than this list
    else:
        field, entries = _FIELD[name]
        other = next((each for each in _FIELDS if each != field and len(getattr(tensor, each))), None)
        if other is not None:
            return f"of type {name} has its values in {other} instead of {field}"
        have, wanted = len(getattr(tensor, field)), math.ceil(elements * entries)
        what = f"values in {field}"
    if have != wanted:
        return f"of shape {list(tensor.dims)} and type {name} has {have} {what} instead of {wanted}"
    return None


def _disagrees(tensor: TensorProto, declared: onnx.ValueInfoProto | None) -> str | None:
    """Whether an initializer is something else than the graph says of it."""
    if declared is None or not declared.type.HasField("tensor_type"):
        return None
    kind = declared.type.tensor_type
    if kind.elem_type not in (TensorProto.UNDEFINED, tensor.data_type):
        return "has another type than the graph declares for it"
    if not kind.HasField("shape"):
        return None
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    if len(sizes) != len(tensor.dims) or any(
        size is not None and size != have for size, have in zip(sizes, tensor.dims, strict=True)
    ):
        return f"has the shape {list(tensor.dims)}, and the graph declares another for it"
    return None
