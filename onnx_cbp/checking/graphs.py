"""Reads an `onnx.GraphProto`: who reads a value, who makes it, and its shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx.inliner
import onnx_ir as ir

from onnx_cbp.graph_passes.core.inference import follow, without_weights
from onnx_cbp.validity.walking import ONNX_DOMAINS

#: A dimension: a number, a symbol's name, or None.
Dimension = int | str | None

# The results of these have the same values as their input, as far as possible inputs are concerned.
_HANDS_ON = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")


class GraphReader:
    """The main graph of a model with its subgraphs and model-local functions."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = _inlined(model)
        self._uses: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        for node in nodes(self._model.graph.node):
            for index, name in enumerate(node.input):
                if name:
                    self._uses.setdefault(name, []).append((node, index))
            for name in node.output:
                self._producers[name] = node
        self._shapes = _known_shapes(self._model)
        self._inferred = False

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Every node."""
        return nodes(self._model.graph.node)

    def uses(self, name: str) -> Iterator[tuple[onnx.NodeProto, int]]:
        """Every node that reads the value, with the input index; also after a cast or a change of shape."""
        waiting, seen = [name], {name}
        while waiting:
            for node, index in self._uses.get(waiting.pop(), ()):
                yield node, index
                if is_standard(node) and node.op_type in _HANDS_ON and index == 0:
                    fresh = [output for output in node.output if output not in seen]
                    seen.update(fresh)
                    waiting.extend(fresh)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes the value; None for inputs and initializers."""
        return self._producers.get(name)

    def shape(self, name: str) -> tuple[Dimension, ...] | None:
        """The shape of a value; None if even the rank is not known."""
        if name not in self._shapes and not self._inferred:
            # Slow and often unnecessary, so it is done only for a shape that the file does not state.
            self._inferred = True
            self._shapes = {**_inferred_shapes(self._model), **self._shapes}
        return self._shapes.get(name)

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The constant tensor that a value always is, if the graph says so."""
        for initializer in self._model.graph.initializer:
            if initializer.name == name:
                return initializer
        node = self.producer(name)
        if node is not None and is_standard(node) and node.op_type == "Constant":
            return next((a.t for a in node.attribute if a.name == "value"), None)
        return None


def nodes(roots: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in roots:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g.node)
            for graph in attribute.graphs:
                yield from nodes(graph.node)


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether it is an op of ONNX itself."""
    return node.domain in ONNX_DOMAINS


def fed_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give; those with an initializer have a default."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    initializers.update(tensor.values.name for tensor in model.graph.sparse_initializer)
    return [value for value in model.graph.input if value.name not in initializers]


def dimensions(shape: onnx.TensorShapeProto) -> tuple[Dimension, ...]:
    """A shape as Python values; a negative size is an unknown one."""
    sizes = (d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in shape.dim)
    return tuple(None if isinstance(size, int) and size < 0 else size for size in sizes)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception:  # only a hint: otherwise the role of an input stays unknown
        return model


def _known_shapes(model: onnx.ModelProto) -> dict[str, tuple[Dimension, ...]]:
    graph = model.graph
    shapes: dict[str, tuple[Dimension, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = dimensions(value.type.tensor_type.shape)
    return shapes


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, tuple[Dimension, ...]]:
    try:
        inferred = follow(without_weights(ir.from_proto(model)), is_strict=False)
    except Exception:  # only a hint; what onnx-ir does not read is refused elsewhere
        return {}
    return {} if inferred is None else _known_shapes(inferred)
