"""Computes one of ONNX's nodes from known values, if the result is small; its size is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnx_cbp.errors import OnnxCbpError, foreign

Arrays = Sequence[np.ndarray | None]

#: The most dimensions of an array in numpy.
_MOST_AXES = 32
#: The kinds of numpy's types that are text: no pass reads them.
_TEXTS = "OSU"


def evaluate(node: onnx.NodeProto, inputs: Arrays, opset: int, largest: int, *, also: int = 0) -> np.ndarray | None:
    """The single result of a node; None if it is not known or too large, or if the op cannot be computed.

    Args:
        node: the node; its op is one of `SIZES`.
        inputs: its inputs, in order; None for one that is left out.
        opset: the version of ONNX's opset of the node.
        largest: the most elements that are computed.
        also: results with at most this many elements are always computed.
    """
    size = size_of(node, inputs)
    given = _given(inputs)
    if size is None or size > max(largest, also) or any(each.ndim > _MOST_AXES for each in given):
        return None
    if any(each.dtype.kind in _TEXTS for each in given):
        return None
    names = [f"input{index}" if value is not None else "" for index, value in enumerate(inputs)]
    feeds = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[:], alone.output[:]
    alone.input.extend(names)
    alone.output.append("output")
    alone.domain = ""
    graph = onnx.GraphProto(name="alone", node=[alone])
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, ir.DataType.from_numpy(value.dtype).value, value.shape)
        for name, value in feeds.items()
    )
    graph.output.append(onnx.ValueInfoProto(name="output"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    try:
        with foreign("not to be computed"), np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(model).run(None, feeds)
    except OnnxCbpError:  # the reference cannot compute it
        return None
    array = np.asarray(result) if isinstance(result, np.ndarray | np.generic) else None
    return None if array is None or array.dtype.kind in _TEXTS else array


def size_of(node: onnx.NodeProto, inputs: Arrays) -> int | None:
    """How many elements the result of a node has at most; None if that is not known."""
    rule = SIZES.get(node.op_type)
    if rule is None:
        return None
    try:
        return rule(node, inputs)
    except (IndexError, ValueError, AttributeError, OverflowError, TypeError):  # an input is not valid for the op
        return None


def _attributes(node: onnx.NodeProto) -> Mapping[str, onnx.AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}


def _given(inputs: Arrays) -> list[np.ndarray]:
    return [value for value in inputs if value is not None]


def _largest(_: onnx.NodeProto, inputs: Arrays) -> int:
    """At most as large as the inputs: a part of one, or one in another shape."""
    return max(value.size for value in _given(inputs))


def _together(_: onnx.NodeProto, inputs: Arrays) -> int:
    return math.prod(np.broadcast_shapes(*(value.shape for value in _given(inputs))))


def _sum(_: onnx.NodeProto, inputs: Arrays) -> int:
    return sum(value.size for value in _given(inputs))


def _sizes(value: np.ndarray | None) -> list[int]:
    assert value is not None
    return [int(size) for size in value.reshape(-1)]


def _as_told(_: onnx.NodeProto, inputs: Arrays) -> int | None:
    """ConstantOfShape: its input is the shape."""
    sizes = _sizes(inputs[0])
    return None if any(size < 0 for size in sizes) or len(sizes) > _MOST_AXES else math.prod(sizes)


def _expanded(_: onnx.NodeProto, inputs: Arrays) -> int | None:
    sizes = _sizes(inputs[1])
    if any(size < 0 for size in sizes) or len(sizes) > _MOST_AXES:
        return None
    value = inputs[0]
    assert value is not None
    rank = max(len(sizes), value.ndim)
    pairs = zip([1] * (rank - len(sizes)) + sizes, [1] * (rank - value.ndim) + list(value.shape), strict=True)
    return math.prod(b if a == 1 else a for a, b in pairs)


def _gathered(node: onnx.NodeProto, inputs: Arrays) -> int:
    data, indices = inputs[:2]
    assert data is not None
    assert indices is not None
    axis = _attributes(node)["axis"].i if "axis" in _attributes(node) else 0
    return indices.size * (data.size // max(data.shape[axis], 1))


def _tiled(_: onnx.NodeProto, inputs: Arrays) -> int | None:
    value, repeats = inputs[:2]
    assert value is not None
    sizes = _sizes(repeats)
    # Axis after axis: intermediate results can be large, even if the last axis leaves nothing.
    return None if any(size < 0 for size in sizes) else max(value.size, 1) * math.prod(max(size, 1) for size in sizes)


def _ranged(_: onnx.NodeProto, inputs: Arrays) -> int | None:
    start, limit, delta = (float(value.reshape(-1)[0]) for value in _given(inputs))
    return max(math.ceil((limit - start) / delta), 0) if delta else None


def _constant(node: onnx.NodeProto, _: Arrays) -> int | None:
    """The number of elements of a Constant; nothing here computes with text."""
    (attribute,) = node.attribute
    if attribute.name == "value":
        return None if attribute.t.data_type == onnx.TensorProto.STRING else math.prod(attribute.t.dims)
    if attribute.name in ("value_int", "value_float"):
        return 1
    return len(attribute.ints) + len(attribute.floats) if attribute.name in ("value_ints", "value_floats") else None


_ELEMENTWISE = ["Abs", "Cast", "Ceil", "Clip", "Erf", "Exp", "Floor", "Identity", "Log", "Neg", "Reciprocal", "Relu"]
_ELEMENTWISE += ["Round", "Sigmoid", "Sign", "Softplus", "Sqrt", "Tanh", "Not", "IsNaN", "IsInf"]
_PARTS = ("Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_REDUCTIONS = ("ArgMax", "ArgMin", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare")
_TOGETHER = ["Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub"]
_TOGETHER += ["Sum", "Where"]

#: For each op, the most elements of a result, from the node and its inputs. Other ops are not computed.
SIZES: Mapping[str, Callable[[onnx.NodeProto, Arrays], int | None]] = {
    **dict.fromkeys((*_ELEMENTWISE, *_PARTS, *_REDUCTIONS), _largest),
    **dict.fromkeys(_TOGETHER, _together),
    "Concat": _sum,
    "Constant": _constant,
    "ConstantOfShape": _as_told,
    "Expand": _expanded,
    "Gather": _gathered,
    "Range": _ranged,
    "Shape": lambda _, inputs: max(value.ndim for value in _given(inputs)),
    "Size": lambda *_: 1,
    "Tile": _tiled,
}
