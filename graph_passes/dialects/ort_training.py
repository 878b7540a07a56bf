"""ONNX Runtime training artifacts: com.microsoft BatchNormInternal and BatchNormalizationGrad."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import BackwardSite, LeftAlone, Site
from onnx_cbp.graph_passes.dialects._reading import (
    attribute,
    first_missing,
    forward_site,
    inference_site,
    optional_input,
    optional_output,
)

DOMAIN = "com.microsoft"
_BACKWARD_INPUTS = ("dY", "X", "scale", "saved_mean", "saved_inv_std")


def recognise(node: ir.Node, opset: int) -> Site | None:  # noqa: ARG001 - one signature for every dialect
    """The batch norm, or the gradient of one, that `node` is; None if it is neither."""
    if node.domain != DOMAIN:
        return None
    if node.op_type == "BatchNormInternal":
        return _forward(node)
    if node.op_type == "BatchNormalizationGrad":
        return _backward(node)
    return None


def _forward(node: ir.Node) -> Site:
    form = "BatchNormInternal"
    if not attribute(node, "training_mode", 1):
        return inference_site(node, form)
    # By position: the formal name of the last output is saved_var in one place and saved_inv_std in another; it is 1 /
    # std. Without running statistics, it is what we ourselves write for arithmetic while its gradient is built.
    bare = optional_input(node, 3) is None and optional_input(node, 4) is None
    needs = ("X", "scale", "B") if bare else ("X", "scale", "B", "input_mean", "input_var")
    return forward_site(node, form, saved_inv_std=optional_output(node, 4), updates_in_place=True, needs=needs)


def _backward(node: ir.Node) -> Site:
    form = "BatchNormalizationGrad"
    missing = first_missing(node, _BACKWARD_INPUTS)
    if missing:
        return LeftAlone(node, form, f"'{missing}' is missing: the model is not valid")
    dY, X, scale, mean, inv_std = node.inputs[:5]
    assert dY is not None
    assert X is not None
    assert scale is not None
    assert mean is not None
    assert inv_std is not None
    return BackwardSite(
        node=node,
        form=form,
        axis=1,
        dY=dY,
        X=X,
        scale=scale,
        mean=mean,
        inv_std=inv_std,
        dX=optional_output(node, 0),
        scale_grad=optional_output(node, 1),
        bias_grad=optional_output(node, 2),
    )


def is_gradient_accumulator(node: ir.Node) -> bool:
    """Whether the node adds a parameter's gradient to its buffer.

    Here the caller decides with a flag whether the buffer starts at zero. Nodes that write running statistics have a
    constant flag.
    """
    if (node.domain, node.op_type) != (DOMAIN, "InPlaceAccumulatorV2") or first_missing(node, ("buffer", "gradient")):
        return False
    flag = optional_input(node, 2)
    return flag is not None and flag.is_graph_input()


def relu_gradient(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(dY, Y) of the gradient of a Relu with result Y; None if the node is not one.

    It is ONNX Runtime's op, or what `differentiate` writes: dY * Cast(Cast(Y, to=BOOL)), or dY * Sign(Y).
    """
    if (node.domain, node.op_type) == ("", "Mul"):
        return _masked(node)
    if (node.domain, node.op_type) != (DOMAIN, "ReluGrad") or first_missing(node, ("dY", "Y")):
        return None
    dY, Y = node.inputs[:2]
    assert dY is not None
    assert Y is not None
    return dY, Y


def _masked(product: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(dY, Y) of dY times 1 where Y is not zero; Y is the result of a Relu, or of a batch norm that includes one."""
    for dY, mask in (product.inputs, product.inputs[::-1]):
        Y = _nonzero(mask)
        made = None if Y is None else Y.producer()
        if dY is not None and Y is not None and made is not None and _is_relu(made) and Y is made.outputs[0]:
            return dY, Y
    return None


def _nonzero(mask: ir.Value | None) -> ir.Value | None:
    """The value, nowhere negative, whose nonzero elements this mask marks with 1; None if it is none."""
    maker = None if mask is None else mask.producer()
    if maker is None or maker.domain:
        return None
    if maker.op_type == "Sign":
        return maker.inputs[0]
    as_bool = maker.inputs[0].producer() if maker.op_type == "Cast" and maker.inputs[0] is not None else None
    if as_bool is None or (as_bool.domain, as_bool.op_type) != ("", "Cast"):
        return None
    to_bool = attribute(as_bool, "to", 0) == ir.DataType.BOOL
    return as_bool.inputs[0] if to_bool else None


def _is_relu(node: ir.Node) -> bool:
    folded = node.attributes.get("relu")
    return (node.domain, node.op_type) == ("", "Relu") or (
        node.op_type == "BatchNormTrainUpdate" and folded is not None and bool(folded.as_int())
    )
