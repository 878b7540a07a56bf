"""Removes transposes around batch norms that only move the channels to axis 1."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import is_used, succeed
from onnx_cbp.graph_passes.dialects import is_rewritten_forward

#: Elementwise functions of one tensor; their other inputs are numbers.
_ELEMENTWISE = frozenset(
    {"Abs", "Cast", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"}
    | {"Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"}
)


class ChannelsLastPass(InPlacePass):
    """A rewritten batch norm between two transposes works directly on the original layout, with axis = -1.

        Y = Transpose<0, 2, 3, 1>(BatchNormTrain<axis=1>(Transpose<0, 3, 1, 2>(X), ...))
        Y = BatchNormTrain<axis=-1>(X, ...)

    The rank may be 3 or more. Elementwise functions (a Relu) may be between the batch norm and the second transpose.
    Nothing may read the values between the transposes in the other layout. The first transpose is removed if nothing
    else reads it. Run this after the replacements and before `FoldReluPass`. Statistics are added up in another order,
    so results are equal up to rounding.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        modified = False
        for node in list(all_nodes(model)):
            if is_rewritten_forward(node) and node.attributes["axis"].as_int() == 1:
                modified |= _turn(node)
        return PassResult(model, modified)


def _turn(node: ir.Node) -> bool:
    turned = node.inputs[0]
    there = None if turned is None else turned.producer()
    if turned is None or there is None or there.graph is not node.graph:
        return False
    perm = permutation(there)
    rank = len(perm)
    back = [0, *range(2, rank), 1]
    if rank < 3 or perm != [0, rank - 1, *range(1, rank - 1)]:
        return False
    X = there.inputs[0]
    if X is None:
        return False
    between, ends = [node.outputs[0]], []
    for value in between:
        readers = list(_readers(value))
        if value.is_graph_output() or not readers:
            return False
        for reader in readers:
            if reader.graph is not node.graph:
                return False
            if permutation(reader) == back:
                ends.append(reader)
            elif _is_elementwise(reader, value):
                between.append(reader.outputs[0])
            else:
                return False
    if any(end.outputs[0].is_graph_output() for end in ends) and len({end.inputs[0] for end in ends}) != len(ends):
        return False  # two outputs of a graph must not be one value
    for value in between:
        if value.shape is not None and len(value.shape) == rank:
            value.shape = ir.Shape([value.shape[axis] for axis in back])
    for end in ends:
        _remove(end)
    _take(node, X)
    for reader in list(_readers(turned)):  # of a batch norm in steps: its statistics
        if (reader.domain, reader.op_type) == (DOMAIN, "ChannelStats") and reader.attributes["axis"].as_int() == 1:
            _take(reader, X)
    if not is_used(turned):
        assert there.graph is not None
        there.graph.remove(there, safe=True)
    return True


def permutation(node: ir.Node) -> list[int]:
    """The axes that a Transpose names, each once; [] if the node is no Transpose, or names none."""
    perm = node.attributes.get("perm")
    if (node.domain, node.op_type) != ("", "Transpose") or perm is None or perm.is_ref():
        return []
    axes = list(perm.as_ints())
    return axes if sorted(axes) == list(range(len(axes))) else []


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    yield from dict.fromkeys(use.node for use in value.uses())


def _is_elementwise(node: ir.Node, value: ir.Value) -> bool:
    return (
        node.domain == ""
        and node.op_type in _ELEMENTWISE
        and [v for v in node.inputs if v is value] == [node.inputs[0]]
    )


def _take(node: ir.Node, X: ir.Value) -> None:
    node.replace_input_with(0, X)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)


def _remove(end: ir.Node) -> None:
    """Let the input of a Transpose replace its output."""
    before, after = end.inputs[0], end.outputs[0]
    assert before is not None
    succeed(after, before)
    assert end.graph is not None
    end.graph.remove(end, safe=True)
