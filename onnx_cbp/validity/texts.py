"""Whether names are text."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.walking import graphs, scopes


def check_texts(model: onnx.ModelProto) -> None:
    """Check the names of functions, nodes, values, attributes and opsets.

    Raises:
        OnnxCbpError: one is not UTF-8, as ONNX asks for; protobuf reads it all the same, as bytes.
    """
    for name in _names(model):
        if not isinstance(name, str):
            raise OnnxCbpError(f"the model is not valid ONNX: the name {name!r} is not UTF-8")


def _names(model: onnx.ModelProto) -> Iterator[object]:
    yield from (each.domain for each in model.opset_import)
    for scope in scopes(model):
        if isinstance(scope, onnx.FunctionProto):
            yield from (scope.name, scope.domain, getattr(scope, "overload", ""), *scope.input, *scope.output)
            yield from (each.domain for each in scope.opset_import)
        for graph in graphs(scope):
            if isinstance(graph, onnx.GraphProto):
                yield graph.name
                for named in (graph.input, graph.output, graph.value_info, graph.initializer):
                    yield from (each.name for each in named)
            for node in graph.node:
                yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
                yield from (attribute.name for attribute in node.attribute)
