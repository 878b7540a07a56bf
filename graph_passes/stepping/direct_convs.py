"""Replaces convolutions of a training graph by our ops, where these are faster."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.splice import Names, Splice
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.differentiating import direct_conv
from onnx_cbp.graph_passes.differentiating.builder import Builder
from onnx_cbp.graph_passes.differentiating.windows import group, windows


class DirectConvsPass(InPlacePass):
    """Conv(X, W) -> DirectConv(X, W), for float, one group, no bias, and shapes that `direct_conv` chooses.

    Results differ only by the order of additions.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        builder, names, types = Builder(model, own_convolutions=True), Names(model), Types(model)
        modified = False
        for node in list(model.graph):
            if (node.domain, node.op_type) != ("", "Conv") or not _is_plain(types, node):
                continue
            X, W = node.inputs[:2]
            assert X is not None
            assert W is not None
            outputs, channels, *kernel = builder.fixed(W, range(builder.rank(W)))
            seen = windows(builder, node, X, node.outputs[0], kernel)
            if direct_conv.fits(builder, X, seen, channels, outputs) and direct_conv.stays_cached(channels, outputs):
                Splice(node, names, types).become("DirectConv", (X, W), (), **direct_conv.attributes(seen, seen.pads))
                modified = True
        return PassResult(model, modified)


def _is_plain(types: Types, node: ir.Node) -> bool:
    X, W, *bias = node.inputs
    if X is None or W is None or any(each is not None for each in bias) or group(node) != 1:
        return False
    shapes = [types.shape(value) for value in (X, W, node.outputs[0])]
    return all(shape is not None for shape in shapes) and all(isinstance(size, int) for size in shapes[1] or ())
