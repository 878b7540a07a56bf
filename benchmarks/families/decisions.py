"""What a training graph decides on its way: which side of a ReLU's zero, which element of a pool."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

import onnx_cbp
from onnx_cbp.custom_ops import DOMAIN

#: Gradients of ours that decide inside, and where they have dY and what BatchNormGrad reads beside it.
_INSIDE = {"BatchNormRecomputeReluGrad": (0, 1, 2, 3, 4), "BatchNormReluGrad": (0, 2, 3, 4, 5)}
_SLOPE = 5
_COMPARE = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def with_visible_decisions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The training graph, with gradients of batch norm and ReLU in two steps, so that the signs are values."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    relu_of = {output: node.output[0] for node in model.graph.node for output in node.output}
    del result.graph.node[:]
    for node in model.graph.node:
        places = _INSIDE.get(node.op_type) if node.domain == DOMAIN else None
        if places is None:
            result.graph.node.append(node)
            continue
        Y = relu_of[node.input[_SLOPE]] if node.op_type == "BatchNormRecomputeReluGrad" else node.input[1]
        passes, passed, dY = (f"{node.output[0]}/{each}" for each in ("passes", "passed", "dY"))
        plain = helper.make_node("BatchNormGrad", [dY, *(node.input[i] for i in places[1:])], node.output)
        plain.domain = DOMAIN
        plain.attribute.extend(node.attribute)
        cast = helper.make_node("Cast", [Y], [passes], to=TensorProto.BOOL)
        back = helper.make_node("CastLike", [passes, node.input[0]], [passed])
        result.graph.node.extend([cast, back, helper.make_node("Mul", [node.input[0], passed], [dY]), plain])
    return result


def decisions(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run a training graph on onnxruntime in float, and see what it decides.

    Args:
        model: a graph of `with_visible_decisions`; gradient rules decide by comparisons, by Casts to bool, by Sign and
            by the Indices of a MaxPool.
        feeds: its inputs.

    Returns:
        The outputs of the graph, and these values, by their names.
    """
    seen: dict[str, int | None] = {}
    for node in model.graph.node:
        to_bool = node.op_type == "Cast" and node.attribute[0].i == TensorProto.BOOL
        if node.op_type in _COMPARE or to_bool:
            seen[node.output[0]] = TensorProto.BOOL
        elif node.op_type == "Sign":
            seen[node.output[0]] = None
        elif node.op_type == "MaxPool" and len(node.output) > 1:
            seen[node.output[1]] = TensorProto.INT64
    outputs = [value.name for value in model.graph.output]
    seen = {name: kind for name, kind in seen.items() if name not in outputs}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) if kind is None else helper.make_tensor_value_info(name, kind, None)
        for name, kind in seen.items()
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if any(node.domain == DOMAIN for node in model.graph.node):
        onnx_cbp.register(options)
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = dict(zip([*outputs, *seen], session.run([*outputs, *seen], dict(feeds)), strict=True))
    return {name: values[name] for name in outputs}, {name: values[name] for name in seen}
