"""The element type and the shape of a value: its own, or what ONNX's inference finds."""

from __future__ import annotations

import contextlib

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.graph_passes.core.inference import infer_shapes, without_weights
from onnx_cbp.graph_passes.core.scopes import import_domain

#: The types that a value with a gradient can have.
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
#: The types whose values are no real numbers.
NO_NUMBERS = (ir.DataType.UNDEFINED, ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)


class Types:
    """Element types and shapes of the values of a model's graph and subgraphs."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred: dict[str | None, ir.Value] | None = None

    def of(self, value: ir.Value) -> ir.DataType | None:
        """The type of a tensor; None if it is not known, or if the value is no tensor (a sequence, an optional)."""
        if value.type is None:
            inferred = self._infer().get(value.name)
            return None if inferred is None else _of_tensor(inferred)
        return _of_tensor(value)

    def shape(self, value: ir.Value) -> tuple[int | str | None, ...] | None:
        """The shape of a tensor, with symbolic sizes as text or None; None if its rank is not known."""
        if not _may_be_tensor(value):
            return None
        shape = value.shape
        if shape is None:
            constant = ir.convenience.get_const_tensor(value)
            if constant is not None:
                return tuple(constant.shape.numpy())
            inferred = self._infer().get(value.name)
            shape = None if inferred is None or not _may_be_tensor(inferred) else inferred.shape
        return None if shape is None else tuple(size if isinstance(size, int) else size.value for size in shape)

    def _infer(self) -> dict[str | None, ir.Value]:
        """Values of an inferred copy, by name. Needed only if a value has no type or shape of its own."""
        if self._inferred is None:
            self._inferred = {}
            with contextlib.suppress(Exception):  # whoever reads an invalid model reports it
                # A copy, since inference would write types and shapes everywhere in the model.
                copy = ir.from_proto(without_weights(self._model))
                import_domain(copy)  # a pass may not have finished with the model
                infer_shapes(copy, as_far_as_possible=True)
                for node in RecursiveGraphIterator(copy.graph):
                    self._inferred.update((value.name, value) for value in node.outputs)
        return self._inferred


def _may_be_tensor(value: ir.Value) -> bool:
    """Whether a value may be a tensor; for a sequence, onnx-ir reports the type of its elements."""
    return value.type is None or isinstance(value.type, ir.TensorType | ir.SparseTensorType)


def _of_tensor(value: ir.Value) -> ir.DataType | None:
    # A declaration may say that the type is undefined.
    return value.dtype if _may_be_tensor(value) and value.dtype != ir.DataType.UNDEFINED else None
