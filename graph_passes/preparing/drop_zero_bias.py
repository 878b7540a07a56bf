"""Drops the zeros that an exporter writes where a convolution has no bias."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.scopes import all_nodes

#: The input that a bias is; it is optional.
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


class DropZeroBiasPass(InPlacePass):
    """Removes biases that are constant zeros.

    They cost a gradient that nobody asks for; and ONNX Runtime merges equal constants before it builds gradients, and
    then names those of several convolutions alike, which is no valid model.

    Args:
        trained: names of the parameters that have a gradient; a bias among them stays, whatever its value.
    """

    def __init__(self, trained: Collection[str]) -> None:
        super().__init__()
        self._trained = frozenset(trained)

    def call(self, model: ir.Model) -> PassResult:
        """Drop in place."""
        modified = False
        for node in all_nodes(model):
            index = _BIAS.get(node.op_type) if node.domain == "" else None
            if index is None or len(node.inputs) <= index:
                continue
            bias = node.inputs[index]
            if bias is None or bias.name in self._trained or bias.is_graph_input():
                continue
            if bias.const_value is None or bias.const_value.numpy().any():
                continue
            node.resize_inputs(index)
            modified = True
        return PassResult(model, modified)
