"""Drops the zeros that an exporter writes where a layer has no bias."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.types import Types

#: The input that a bias is; it is optional, of a Gemm since opset 11.
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
_OPTIONAL_IN_GEMM_SINCE = 11
#: Ops whose result has the elements of their first input, and no others.
_SPREAD = ("Cast", "CastLike", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze")


class DropZeroBiasPass(InPlacePass):
    """Removes biases that are constant zeros.

    They cost a gradient that nobody asks for; and ONNX Runtime merges equal constants before it builds gradients, and
    then names those of several convolutions alike, which is no valid model.

    Args:
        trained: names of the parameters that have a gradient; a bias among them stays, whatever its value.
        misshapen: only those of convolutions that are no vector, which no runtime computes: PyTorch's default exporter
            writes zeros of rank 2 for a Conv3d without a bias.
    """

    def __init__(self, trained: Collection[str] = (), *, misshapen: bool = False) -> None:
        super().__init__()
        self._trained = frozenset(trained)
        self._misshapen = misshapen

    def call(self, model: ir.Model) -> PassResult:
        """Drop in place."""
        types = Types(model)
        opset = onnx_opset(model.opset_imports)
        modified = False
        for node in all_nodes(model):
            index = _BIAS.get(node.op_type) if node.domain == "" else None
            if index is None or len(node.inputs) <= index:
                continue
            bias = node.inputs[index]
            if bias is None or bias.name in self._trained or not _is_zero(bias):
                continue
            if node.op_type == "Gemm" and (self._misshapen or opset < _OPTIONAL_IN_GEMM_SINCE):
                continue
            if self._misshapen and len(types.shape(bias) or (0,)) == 1:
                continue
            node.resize_inputs(index)
            modified = True
        return PassResult(model, modified)


def _is_zero(value: ir.Value | None) -> bool:
    """Whether a value is known to be nothing but zeros."""
    while value is not None and not value.is_graph_input():
        tensor, node = ir.convenience.get_const_tensor(value), value.producer()
        if tensor is not None:
            return not tensor.numpy().any()
        if node is None or node.domain != "" or node.op_type not in _SPREAD or not node.inputs:
            return False
        value = node.inputs[0]
    return False
