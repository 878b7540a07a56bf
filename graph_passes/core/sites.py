"""Sites: batch norms in a normal form, which dialects fill in and passes read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir


class ChannelVector(ir.Value):
    """A vector of channels that a form has in another shape, or not at all. It is in no graph.

    If a `Draft` gets one as an input, it first adds the node that makes it.

    Attributes:
        source: the value with its elements; None if all elements are `fill`.
        fill: the value of all elements, if there is no source.
    """

    def __init__(
        self, source: ir.Value | None, fill: float, channels: int | str | None, dtype: ir.DataType | None
    ) -> None:
        super().__init__(
            name=None if source is None else source.name,  # the name in messages
            type=None if dtype is None else ir.TensorType(dtype),
            shape=ir.Shape((channels,)),
        )
        self.source = source
        self.fill = fill

    @classmethod
    def of(cls, source: ir.Value, dtype: ir.DataType | None, shape: Sequence[int | str | None] | None) -> ChannelVector:
        """The elements of a value all of whose axes but one have size 1."""
        wide = [size for size in shape or () if size != 1]
        return cls(source, 0.0, wide[0] if len(wide) == 1 else None, dtype)

    @classmethod
    def filled(cls, fill: float, channels: int | None, dtype: ir.DataType | None) -> ChannelVector:
        """The same number for every channel."""
        return cls(None, fill, channels, dtype)


@dataclass(frozen=True)
class ForwardSite:
    """A batch norm that normalises with the statistics of its batch.

    Attributes:
        node: the current node.
        form: the form in which it was found, in words that a user understands.
        axis: the channel axis of X.
        epsilon, momentum: as ONNX defines them (momentum is the part that is kept).
        X, scale, B: its inputs.
        running_mean, running_var: the running statistics before the step; None if the form has none.
        Y: its result.
        updated_mean, updated_var: the running statistics after the step; None if the form has none.
        saved_mean, saved_var, saved_inv_std: the batch mean, the batch variance and 1 / sqrt(batch variance + epsilon),
            as saved for other nodes; None if the form has none.
        updates_in_place: whether the node also writes the updated statistics into running_mean and running_var.
        interior: nodes before `node` that are a part of the batch norm: `Splice.commit` removes the unused ones.
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
    interior: tuple[ir.Node, ...] = ()


@dataclass(frozen=True)
class BackwardSite:
    """The gradient of a batch norm; outputs that are not wanted are None."""

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
        superfluous: outputs that inference form does not have; ONNX Runtime does not load a model with one.
        interior: as in `ForwardSite`.
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
    interior: tuple[ir.Node, ...] = ()


@dataclass(frozen=True)
class LeftAlone:
    """A batch norm that is not rewritten.

    Attributes:
        node: the node that it is.
        form: as in `ForwardSite`.
        reason: why, in one clause that names the value and says what to do.
    """

    node: ir.Node
    form: str
    reason: str


@dataclass(frozen=True)
class Entangled(LeftAlone):
    """A batch norm in arithmetic whose inner values something else reads, such as its own gradient.

    Attributes:
        trains: whether it normalises with the statistics of its batch.
    """

    trains: bool


@dataclass(frozen=True)
class Rewritten(LeftAlone):
    """A batch norm that already consists of ops of this project."""


@dataclass(frozen=True)
class Folded(LeftAlone):
    """A layer into which an exporter folded a batch norm."""


Site = ForwardSite | BackwardSite | InferenceSite | LeftAlone


def label(node: ir.Node) -> str:
    """A name for a node: its own, or else that of its first output."""
    return node.name or next((v.name for v in node.outputs if v.name), None) or node.op_type


def in_graph(value: ir.Value) -> ir.Value:
    """The value in the graph from which a form takes a vector; a filled vector has none, and is returned itself."""
    return value.source if isinstance(value, ChannelVector) and value.source is not None else value


def give_statistic(site: InferenceSite, position: int, new: ir.Value) -> None:
    """Let a batch norm in inference form read another running mean (position 0) or variance (1).

    In arithmetic, the old value must not be its scale or bias as well.
    """
    old = (site.mean, site.var)[position]
    if not site.interior:  # an op: X, scale, B, mean, var
        site.node.replace_input_with(3 + position, new)
        return
    for use in list(in_graph(old).uses()):
        if use.node is site.node or use.node in site.interior:
            use.node.replace_input_with(use.idx, new)
