"""The losses of ONNX Runtime training artifacts: reductions over a batch, and where their gradients begin."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input, reduced_axes

_MICROSOFT = "com.microsoft"
_CROSS_ENTROPY = "SoftmaxCrossEntropyLoss"
#: Read scores or their logarithms, labels, and weights of the classes.
_OF_LABELS = (_CROSS_ENTROPY, "NegativeLogLikelihoodLoss")


@dataclass(frozen=True)
class Reduction:
    """A node that reduces a whole batch to one value.

    Attributes:
        node: the node; its first output is the value.
        mean: whether the sum is divided by a denominator.
        elements: the value whose elements the denominator counts; None if the next attributes give it.
        labels: the labels that the denominator counts.
        weights: the weight of each class, which counts instead of 1; None if there are none.
        ignore_index: the label that does not count; None if there is none.
        gradients: inputs, as (node, index), that read the gradient of the value; empty if nothing reads it.
    """

    node: ir.Node
    mean: bool
    elements: ir.Value | None = None
    labels: ir.Value | None = None
    weights: ir.Value | None = None
    ignore_index: int | None = None
    gradients: tuple[tuple[ir.Node, int], ...] = ()


def reduction(node: ir.Node) -> Reduction | str | None:
    """The reduction that a node is; or why it is not supported, in one clause; None if the node is none."""
    if node.domain == "" and node.op_type in _OF_LABELS:
        return _of_labels(node)
    if node.domain == "" and node.op_type in ("ReduceMean", "ReduceSum"):
        return _reduce(node)
    return None


def is_loss_gradient(node: ir.Node) -> bool:
    """Whether the node is the gradient of any loss over a batch."""
    return (node.domain, node.op_type) == (_MICROSOFT, f"{_CROSS_ENTROPY}Grad")


def _of_labels(node: ir.Node) -> Reduction | str:
    given = node.attributes.get("reduction")
    how = "mean" if given is None else given.as_string()
    if how not in ("mean", "sum"):
        return f"its reduction is '{how}': use 'mean' or 'sum'"
    log_prob = node.outputs[1] if len(node.outputs) > 1 else None
    gradients = () if log_prob is None else log_prob.uses()
    ignored = node.attributes.get("ignore_index")
    return Reduction(
        node,
        how == "mean",
        labels=node.inputs[1],
        weights=optional_input(node, 2),
        ignore_index=None if ignored is None else ignored.as_int(),
        gradients=tuple((use.node, 0) for use in gradients if is_loss_gradient(use.node)),
    )


def _reduce(node: ir.Node) -> Reduction | str:
    X = node.inputs[0]
    assert X is not None
    if not _is_whole(node, X):
        return "it does not reduce all of its input to one value"
    mean = node.op_type == "ReduceMean"
    return Reduction(node, mean, elements=X, gradients=tuple(_scales(X) if mean else _expansions(X)))


def _is_whole(node: ir.Node, X: ir.Value) -> bool:
    axes = reduced_axes(node)
    if axes == ():
        return not attribute(node, "noop_with_empty_axes", 0)
    shape = node.outputs[0].shape
    if not attribute(node, "keepdims", 1):
        if shape is not None:
            return len(shape) == 0
        shape = X.shape
    shape = shape if X.shape is None else X.shape  # of the same rank
    if not shape:
        return shape is not None  # a single number is whole
    return axes is not None and len({axis % len(shape) for axis in axes}) == len(shape)


def _scales(X: ir.Value) -> list[tuple[ir.Node, int]]:
    """The gradient of a mean of all of X: Scale(dY, Div(Size(X), Size(dY))), then expanded to X's shape."""
    found = []
    for size in _readers(X, "", "Size"):
        for div in _readers(size.outputs[0], "", "Div"):
            found += [(scale, 0) for scale in _readers(div.outputs[0], _MICROSOFT, "Scale")]
    return found


def _expansions(X: ir.Value) -> list[tuple[ir.Node, int]]:
    """The gradient of a sum of all of X: Expand(dY, Shape(X))."""
    found = []
    for shape in _readers(X, "", "Shape"):
        found += [(expand, 0) for expand in _readers(shape.outputs[0], "", "Expand")]
    return found


def _readers(value: ir.Value, domain: str, op_type: str) -> list[ir.Node]:
    nodes = dict.fromkeys(use.node for use in value.uses())
    return [node for node in nodes if (node.domain, node.op_type) == (domain, op_type)]
