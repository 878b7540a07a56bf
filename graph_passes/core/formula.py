"""Writes arithmetic on values of a graph like formulas on paper, in the form that the graph's opset needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.splice import Splice
from onnx_cbp.graph_passes.core.types import Types

_SQUEEZE_AXES_ARE_AN_INPUT = 13
_REDUCE_AXES_ARE_AN_INPUT = 18
_CLIP_BOUNDS_ARE_INPUTS = 11

Operand = ir.Value | float


class Formula:
    """Makes the nodes that will replace one node, op by op.

    Operands are values; numbers become constants of the formula's type.

    Attributes:
        node: the node.
        opset: the version of ONNX's domain in the graph.
        dtype: the type of the node's result; None if it is not known.
        followed: the values whose gradients are wanted; None means all.
    """

    def __init__(
        self, node: ir.Node, splice: Splice, types: Types, opset: int, followed: Collection[ir.Value] | None = None
    ) -> None:
        self.node = node
        self.opset = opset
        self.followed = followed
        self._splice = splice
        self._types = types
        self.dtype = types.of(node.outputs[0])

    def input(self, index: int) -> ir.Value:
        """An input that the op needs."""
        value = self.node.inputs[index]
        assert value is not None
        return value

    def shape(self, value: ir.Value) -> tuple[int | str | None, ...] | None:
        """The shape of a value of the graph; None if its rank is not known."""
        return self._types.shape(value)

    def number(self, name: str, default: float) -> float:
        """A numeric attribute."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        return attribute.as_float() if attribute.type == ir.AttributeType.FLOAT else attribute.as_int()

    def integers(self, name: str) -> list[int] | None:
        """An attribute that is a list of integers; None if the node has none."""
        attribute = self.node.attributes.get(name)
        return None if attribute is None else [int(each) for each in attribute.as_ints()]

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_string()

    def known(self, index: int) -> np.ndarray | None:
        """The value of a constant input; None if it is not constant, or absent."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()

    def op(
        self, op_type: str, *inputs: Operand | None, outputs: int = 1, **attributes: int | float | str | Sequence[int]
    ) -> ir.Value:
        """Add a node; return its first output."""
        values = [value if isinstance(value, ir.Value) or value is None else self.constant(value) for value in inputs]
        names = [(op_type if index == 0 else f"{op_type}_{index}", None, None) for index in range(outputs)]
        return self._splice.add(op_type, values, names, attributes)[0]

    def constant(self, value: float | Sequence[float] | np.ndarray) -> ir.Value:
        """A constant of the formula's type."""
        dtype = ir.DataType.FLOAT if self.dtype is None else self.dtype
        return self._splice.constant("value", ir.tensor(np.asarray(value).astype(dtype.numpy()), dtype=dtype))

    def sizes(self, value: Sequence[int] | np.ndarray | int) -> ir.Value:
        """A constant of integers."""
        return self._splice.constant("sizes", ir.tensor(np.asarray(value, np.int64)))

    def reduce(self, op_type: str, x: ir.Value, axes: Sequence[int], *, keepdims: bool = True) -> ir.Value:
        """A reduction over axes; over all axes if none are given."""
        attributes = {"keepdims": int(keepdims)}
        since = _SQUEEZE_AXES_ARE_AN_INPUT if op_type == "ReduceSum" else _REDUCE_AXES_ARE_AN_INPUT
        if not axes:
            return self.op(op_type, x, **attributes)
        if self.opset >= since:
            return self.op(op_type, x, self.sizes(axes), **attributes)
        return self.op(op_type, x, **attributes, axes=list(axes))

    def unsqueeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """`x` with additional axes of size 1."""
        if self.opset >= _SQUEEZE_AXES_ARE_AN_INPUT:
            return self.op("Unsqueeze", x, self.sizes(axes))
        return self.op("Unsqueeze", x, axes=list(axes))

    def squeeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """`x` without some axes of size 1."""
        if self.opset >= _SQUEEZE_AXES_ARE_AN_INPUT:
            return self.op("Squeeze", x, self.sizes(axes))
        return self.op("Squeeze", x, axes=list(axes))

    def at_most(self, x: ir.Value, limit: float) -> ir.Value:
        """The smaller of each element and a limit."""
        if self.opset >= _CLIP_BOUNDS_ARE_INPUTS:
            return self.op("Clip", x, None, limit)
        return self.op("Clip", x, max=limit)

    def between(self, x: ir.Value, low: float, high: float) -> ir.Value:
        """Each element, clipped to two limits."""
        if self.opset >= _CLIP_BOUNDS_ARE_INPUTS:
            return self.op("Clip", x, low, high)
        return self.op("Clip", x, min=low, max=high)
