"""Removes pairs of transposes that cancel."""

from __future__ import annotations

from typing import cast

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import inherit, may_succeed, succeed
from onnx_cbp.graph_passes.rewriting.channels_last import permutation


class CancelTransposesPass(InPlacePass):
    """If a Transpose undoes the one before it, its readers read the original value instead.

        Y = Transpose<0, 3, 1, 2>(Transpose<0, 2, 3, 1>(X))
        Y = X

    Exporters of channels-last frameworks put transposes around each convolution, but a batch norm between them must
    follow its convolution directly to be folded. The first of a pair stays for other readers: afterwards remove unused
    nodes.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        cancelled = [_cancel(node) for node in list(all_nodes(model))]
        return PassResult(model, any(cancelled))


def _cancel(second: ir.Node) -> bool:
    back, turned = permutation(second), second.inputs[0] if second.inputs else None
    first = None if turned is None else turned.producer()
    if not back or first is None or first.graph is not second.graph:
        return False
    there = permutation(first)
    if len(there) != len(back) or [there[axis] for axis in back] != list(range(len(back))):
        return False
    X, Y = first.inputs[0], second.outputs[0]
    if X is None:
        return False
    if not may_succeed(Y, X):
        return False
    (succeed if Y.is_graph_output() else inherit)(Y, X)
    cast("ir.Graph", second.graph).remove(second, safe=True)
    return True
