"""The tasks of workers: a model of one op with its inputs, or a function of PyTorch."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from onnx_cbp.bench.data import DATA
from onnx_cbp.bench.dtypes import NUMBERS, statistics_type
from onnx_cbp.bench.kernels import EPSILON, MOMENTUM, Kernel, Node, OnnxPeer, Peer, own_node
from onnx_cbp.bench.shapes import Shape
from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.custom_ops.operator import STATISTICS_TYPES

_OPSET = 15
_IR_VERSION = 8

Task = dict[str, Any]


def own_task(kernel: Kernel, shape: Shape, data: str, inputs: Mapping[str, Path], library: str) -> Task:
    """The task of our op."""
    operator = OPERATORS[kernel.op]
    attributes: dict[str, Any] = {"axis": shape.axis, **kernel.attributes}
    if any(a.name == "stash_type" for a in operator.attributes):
        number = {np.dtype(dtype).name: number for number, dtype in STATISTICS_TYPES.items()}
        attributes["stash_type"] = number[statistics_type(data)]
    names = tuple(t.name for t in operator.inputs), tuple(t.name for t in operator.outputs)
    return _onnx_task((own_node(kernel, *names, attributes),), shape, data, inputs, library)


def peer_task(peer: Peer, shape: Shape, data: str, inputs: Mapping[str, Path]) -> Task | None:
    """The task of a peer; None if the peer does not support the layout."""
    if isinstance(peer, OnnxPeer):
        if shape.axis % len(shape.dimensions) != 1:
            return None
        return _onnx_task(peer.nodes, shape, data, inputs, None)
    return {
        "kernel": peer.kernel,
        "inputs": {name: str(inputs[name]) for name in peer.inputs},
        "types": {name: _typed(name, shape, data)[1] for name in peer.inputs},
        "results": list(peer.results),
        "updated": dict(peer.updated),
        "attributes": {"epsilon": EPSILON, "momentum": 1.0 - MOMENTUM},
        "rank": len(shape.dimensions),
        "axis": shape.axis,
    }


def _onnx_task(
    nodes: tuple[Node, ...], shape: Shape, data: str, inputs: Mapping[str, Path], library: str | None
) -> Task:
    made = {name for node in nodes for name in node.outputs}
    taken = {name for node in nodes for name in node.inputs}
    fed = [name for name in inputs if name in taken - made]
    results = {name: _typed(name, shape, data) for node in nodes for name in node.outputs if name not in taken}
    graph = helper.make_graph(
        [
            helper.make_node(n.op_type, n.inputs, n.outputs, name=n.op_type, domain=n.domain, **n.attributes)
            for n in nodes
        ],
        "kernel",
        [_value(name, *_typed(name, shape, data)) for name in fed],
        [_value(name, *typed) for name, typed in results.items()],
    )
    opsets = [helper.make_opsetid("com.microsoft", 1)]
    if library is not None:
        opsets.append(helper.make_opsetid(DOMAIN, 1))
    return {
        "model": _encoded(graph, opsets),
        "library": library,
        "inputs": {name: str(inputs[name]) for name in fed},
        "types": {name: _typed(name, shape, data)[1] for name in fed},
        "outputs": results,
        "casts": _casts(data),
    }


def _casts(data: str) -> dict[str, str] | None:
    """Models that cast float32 to a type that no library accepts from numpy, and back."""
    if data != "bfloat16":
        return None
    return {"in": _cast("float32", data), "out": _cast(data, "float32")}


def _cast(source: str, target: str) -> str:
    node = helper.make_node("Cast", ["x"], ["y"], to=NUMBERS[target])
    return _encoded(helper.make_graph([node], "cast", [_value("x", None, source)], [_value("y", None, target)]), [])


def _encoded(graph: Any, more_opsets: list[Any]) -> str:
    opsets = [helper.make_opsetid("", _OPSET), *more_opsets]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return base64.b64encode(model.SerializeToString()).decode()


def _typed(name: str, shape: Shape, data: str) -> tuple[list[int], str]:
    if name in (*DATA, "dX"):
        return list(shape.dimensions), data
    if name == "count":
        return [], "int64"
    return [shape.channels], statistics_type(data)


def _value(name: str, shape: list[int] | None, dtype: str) -> Any:
    return helper.make_tensor_value_info(name, NUMBERS[dtype], shape)
