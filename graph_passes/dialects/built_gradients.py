"""The gradients of our forward ops as ONNX Runtime's gradient builder writes them (`custom_ops.gradients`)."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.custom_ops.gradients import STAND_IN
from onnx_cbp.graph_passes.core.sites import BackwardSite
from onnx_cbp.graph_passes.dialects._reading import optional_output

#: The builder writes this between the name of a forward node and that of a node of its gradient.
_MARK = "_Grad/"


def forward_name(node: ir.Node) -> str | None:
    """The name of the node whose gradient a node is; None if the node is not one of our unfinished gradients."""
    domain, op_type, attribute, value = STAND_IN
    operator = node.attributes.get(attribute)
    if (node.domain, node.op_type) != (domain, op_type) or operator is None or operator.as_string() != value:
        return None
    return (node.name or "").rpartition(_MARK)[0]


def built_gradient(node: ir.Node, axis: int) -> BackwardSite:
    """The site of such a node; its `inv_std` may be a variance."""
    dY, X, scale, mean, inv_std = node.inputs
    assert dY is not None
    assert X is not None
    assert scale is not None
    assert mean is not None
    assert inv_std is not None
    outputs = [optional_output(node, index) for index in range(3)]
    return BackwardSite(node, "gradient", axis, dY, X, scale, mean, inv_std, *outputs)
