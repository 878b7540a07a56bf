"""Differentiation as a pass, by the names of values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.wrong_shapes import drop_wrong_shapes
from onnx_cbp.graph_passes.differentiating.differentiate import differentiate


class DifferentiatePass(InPlacePass):
    """Makes the gradients of a loss outputs of the graph: that of "weight" is called "weight_grad".

    Values that the loss does not depend on get none. Declared shapes that are wrong are taken back first.

    Args:
        loss: the name of a value with one element.
        values: names of the values to differentiate by.

    Raises:
        OnnxCbpError: a name that the main graph does not have, or what `differentiate` refuses; nothing is changed.
    """

    def __init__(self, loss: str, values: Sequence[str]) -> None:
        super().__init__()
        self._loss = loss
        self._values = tuple(values)

    def call(self, model: ir.Model) -> PassResult:
        """Differentiate in place."""
        found = {value.name: value for value in _values(model.graph)}
        for name in (self._loss, *self._values):
            if name not in found:
                raise OnnxCbpError(f"the graph has no value '{name}': name an input, an initializer or a node's output")
        drop_wrong_shapes(model)
        gradients = differentiate(model, found[self._loss], [found[name] for name in self._values])
        names = Names(model)
        for name, gradient in zip(self._values, gradients, strict=True):
            if gradient is not None:
                output = ir.Value(name=names.fresh(f"{name}_grad"), type=gradient.type, shape=gradient.shape)
                node = ir.node("Identity", [gradient], outputs=[output], name=names.fresh(f"{name}_grad/Identity"))
                model.graph.append(node)
                model.graph.outputs.append(output)
        return PassResult(model, any(gradient is not None for gradient in gradients))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
