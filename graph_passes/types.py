"""The element type of a value: its own, or what ONNX's inference finds."""

from __future__ import annotations

import contextlib

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.graph_passes.inference import infer_shapes
from onnx_cbp.graph_passes.scopes import import_domain


class Types:
    """Element types of the values of a model's graph and subgraphs."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred: dict[str | None, ir.DataType | None] | None = None

    def of(self, value: ir.Value) -> ir.DataType | None:
        """The type of a value; None where it is not known."""
        return value.dtype or self._infer().get(value.name)

    def _infer(self) -> dict[str | None, ir.DataType | None]:
        """Types by name; asked only where a value has none of its own."""
        if self._inferred is None:
            self._inferred = {}
            with contextlib.suppress(Exception):  # a model that is not valid is left to who reads it
                # A copy: inference would write types and shapes all over the model.
                copy = ir.from_proto(ir.to_proto(self._model))
                import_domain(copy)  # a pass may be half done with the model
                infer_shapes(copy)
                for node in RecursiveGraphIterator(copy.graph):
                    self._inferred.update((value.name, value.dtype) for value in node.outputs)
        return self._inferred
