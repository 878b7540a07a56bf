"""Lets gradients pass at some elements, and not at others."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.differentiating.builder import Builder

#: Ops whose result is finite where their slope is not: at 0, or at 1.
_STEEP = {"Sqrt", "Acos", "Asin", "Acosh"}
#: Ops that give an infinite gradient on to what they read.
_PASSING_ON = {"Add", "Cast", "Concat", "Div", "Expand", "Flatten", "Gather", "Identity", "Mul", "Neg", "ReduceMean"}
_PASSING_ON |= {"ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Sub", "Sum", "Transpose", "Unsqueeze"}


def passing(g: Builder, dY: ir.Value, mask: ir.Value, Y: ir.Value) -> ir.Value:
    """`dY`, the gradient of `Y`, where the mask is true, else 0.

    As a product, since a processor cannot guess what a Where will choose, and takes three to ten times as long for it.
    But 0 times infinity is no number: where dY may be infinite, as before Sqrt (Relu (x)), it is a Where.
    """
    if _may_be_infinite(g, Y):
        return g.Where(mask, dY, g.scalar(0, dY))
    return g.Mul(dY, g.Cast(mask, to=g.dtype(dY).value))


def _may_be_infinite(g: Builder, Y: ir.Value) -> bool:
    """Whether something that is steep at a point is computed from a value, without an op in between that curves."""
    seen, todo = {Y}, [Y]
    while todo:
        value = todo.pop()
        for node in value.consumers():
            if node.domain != "":
                continue
            if node.op_type in _STEEP or (node.op_type == "Pow" and value is node.inputs[0] and _is_root(g, node)):
                return True
            if node.op_type in _PASSING_ON and not _keeps_away(g, node):
                todo += [each for each in node.outputs if each not in seen]
                seen.update(node.outputs)
    return False


def _is_root(g: Builder, power: ir.Node) -> bool:
    exponent = g.known(power.inputs[1])
    return exponent is None or bool(((exponent > 0) & (exponent < 1)).any())


def _keeps_away(g: Builder, node: ir.Node) -> bool:
    """Whether a node keeps a value from 0: it adds an epsilon, or squares, whose slope is 0 there."""
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    epsilons = [g.known(value) for value in node.inputs] if node.op_type == "Add" else []
    return any(each is not None and bool((each > 0).all()) for each in epsilons)
