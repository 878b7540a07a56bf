"""Drops the zeros that an exporter writes if a layer has no bias."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.types import Types

#: The input that is the bias. It is optional; for a Gemm since opset 11.
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
_OPTIONAL_IN_GEMM_SINCE = 11
#: Ops whose result has the elements of their first input, and no others.
_SPREAD = ("Cast", "CastLike", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze")


class DropZeroBiasPass(InPlacePass):
    """Removes biases that are constant zeros.

    They cost a gradient that nobody needs. Also, ONNX Runtime merges equal constants before it builds gradients, and
    then gives the gradients of several convolutions one name, which makes the model invalid.

    Args:
        trained: names of the parameters with a gradient; a bias among them stays, whatever its value.
        misshapen: only drop biases of convolutions that are not one number per channel, which no runtime accepts:
            PyTorch's default exporter writes zeros in another shape for a Conv3d without a bias.
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
            if self._misshapen and not _is_misshapen(node, types.shape(bias), types):
                continue
            node.resize_inputs(index)
            modified = True
        return PassResult(model, modified)


def _is_misshapen(node: ir.Node, shape: tuple[int | str | None, ...] | None, types: Types) -> bool:
    """Whether the bias of a convolution is known not to be one number per channel."""
    if shape is None or len(shape) != 1:
        return shape is not None
    weight = None if node.inputs[1] is None else types.shape(node.inputs[1])
    channels = None if not weight else weight[0]
    if node.op_type == "ConvTranspose":
        group = node.attributes["group"].as_int() if "group" in node.attributes else 1
        channels = weight[1] * group if weight and len(weight) > 1 and isinstance(weight[1], int) else None
    return isinstance(channels, int) and isinstance(shape[0], int) and shape[0] != channels


def _is_zero(value: ir.Value | None) -> bool:
    """Whether all elements of a value are known to be zero."""
    while value is not None and not value.is_graph_input():
        tensor, node = ir.convenience.get_const_tensor(value), value.producer()
        if tensor is not None:
            return not tensor.numpy().any()
        if node is None or node.domain != "" or node.op_type not in _SPREAD or not node.inputs:
            return False
        value = node.inputs[0]
    return False
