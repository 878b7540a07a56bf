"""Forward ops of training graphs, in the op of ONNX that they are at inference."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute

_MICROSOFT = "com.microsoft"


def plain_form(node: ir.Node) -> tuple[str, tuple[ir.Value | None, ...], dict[str, int]] | None:
    """The ONNX op that makes a node's first output at inference, as (op type, inputs, attributes); None if it is one.

    Batch norms are not here: they are sites.
    """
    if node.domain == "" and node.op_type == "Dropout":
        return "Identity", tuple(node.inputs[:1]), {}
    if (node.domain, node.op_type) == (_MICROSOFT, "ConcatTraining"):
        return "Concat", tuple(node.inputs), {"axis": int(attribute(node, "axis", 0))}
    return None
