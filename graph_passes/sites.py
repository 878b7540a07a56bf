"""What a batch norm is, whatever the exporter called it: the normal form between dialects and passes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class ForwardSite:
    """A batch norm that normalises with the statistics of its batch.

    Attributes:
        node: the node that it is now.
        form: the form it was found in, in words a user understands.
        axis: the channel axis of X.
        epsilon, momentum: as ONNX defines them (momentum is the part that is kept).
        X, scale, B: its inputs.
        running_mean, running_var: the running statistics before the step; None where the form has none.
        Y: its result.
        updated_mean, updated_var: the running statistics after the step; None where the form has none.
        saved_mean, saved_var, saved_inv_std: the batch mean, the batch variance and 1 / sqrt(batch variance + epsilon)
            for whom they were saved; None where the form has none.
        updates_in_place: the node also writes the updated statistics into running_mean and running_var.
    """

    node: ir.Node
    form: str
    axis: int
    epsilon: float
    momentum: float
    X: ir.Value
    scale: ir.Value
    B: ir.Value
    running_mean: ir.Value | None
    running_var: ir.Value | None
    Y: ir.Value
    updated_mean: ir.Value | None
    updated_var: ir.Value | None
    saved_mean: ir.Value | None
    saved_var: ir.Value | None
    saved_inv_std: ir.Value | None
    updates_in_place: bool


@dataclass(frozen=True)
class BackwardSite:
    """The gradient of a batch norm; an output that nothing asked for is None."""

    node: ir.Node
    form: str
    axis: int
    dY: ir.Value
    X: ir.Value
    scale: ir.Value
    mean: ir.Value
    inv_std: ir.Value
    dX: ir.Value | None
    scale_grad: ir.Value | None
    bias_grad: ir.Value | None


@dataclass(frozen=True)
class InferenceSite:
    """A batch norm that normalises with running statistics.

    Attributes:
        node, form, axis, epsilon, momentum, X, scale, B, Y: as in `ForwardSite`.
        mean, var: the running statistics.
        superfluous: outputs that inference form does not have; ONNX Runtime loads no model with one.
    """

    node: ir.Node
    form: str
    axis: int
    epsilon: float
    momentum: float
    X: ir.Value
    scale: ir.Value
    B: ir.Value
    mean: ir.Value
    var: ir.Value
    Y: ir.Value
    superfluous: tuple[ir.Value, ...] = ()


@dataclass(frozen=True)
class LeftAlone:
    """A batch norm that is not rewritten.

    Attributes:
        node: the node that it is.
        form: as in `ForwardSite`.
        reason: why, in one clause that names the value and the mend.
    """

    node: ir.Node
    form: str
    reason: str


Site = ForwardSite | BackwardSite | InferenceSite | LeftAlone


def label(node: ir.Node) -> str:
    """A name for a node: its own, or that of its first output."""
    return node.name or next((v.name for v in node.outputs if v.name), None) or node.op_type
