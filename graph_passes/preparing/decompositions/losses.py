"""Losses in a graph, with everything that ONNX Runtime's gradient of them reads."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.core.formula import Formula


def softmax_cross_entropy(f: Formula) -> ir.Value | None:
    """The op with its second result, the log-probabilities, which a gradient reads."""
    if len(f.node.outputs) > 1:
        return None
    attributes = {name: each.value for name, each in f.node.attributes.items()}
    return f.op("SoftmaxCrossEntropyLoss", *f.node.inputs, outputs=2, **attributes)


RULES = {"SoftmaxCrossEntropyLoss": softmax_cross_entropy}
