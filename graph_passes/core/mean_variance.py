"""Writes the axes of MeanVarianceNormalization, without which onnx infers nothing for a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

#: The first opset that has the op; ONNX Runtime's own, in older ones, has no axes.
_SINCE = 9
_DEFAULT = (0, 2, 3)


def write_axes(model: onnx.ModelProto) -> None:
    """Write down the default where a node leaves its axes out, in place.

    From opset 13 on the op's function body refers to the attribute, and the inference of onnx (up to 1.23) fails if the
    node does not have it.
    """
    nodes = list(_all(model.graph.node, _opset(model.opset_import)))
    for function in model.functions:
        nodes += _all(function.node, _opset(function.opset_import))
    for node in nodes:
        if not any(attribute.name == "axes" for attribute in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("axes", _DEFAULT))


def _opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    return max((each.version for each in imports if each.domain in ("", "ai.onnx")), default=0)


def _all(nodes: Iterable[onnx.NodeProto], opset: int) -> Iterator[onnx.NodeProto]:
    if opset < _SINCE:
        return
    for node in nodes:
        if node.op_type == "MeanVarianceNormalization" and node.domain in ("", "ai.onnx"):
            yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _all(graph.node, opset)
