"""Reads the attributes of convolutions and pools, each of which has a number for every axis of space."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import label

#: For each attribute: how many numbers an axis has, the default, and the least that a number may be.
_KINDS: dict[str, tuple[int, int, int | None]] = {
    "kernel_shape": (1, 1, 1),
    "strides": (1, 1, 1),
    "dilations": (1, 1, 1),
    "output_padding": (1, 0, 0),
    "pads": (2, 0, None),
}


def kernel_of(node: ir.Node, shape: Sequence[int | str | None] | None) -> list[int]:
    """The attribute kernel_shape of a node whose data has this shape; None: its rank is not known.

    Raises:
        OnnxCbpError: see `of_windows`.
    """
    attribute = node.attributes.get("kernel_shape")
    rank = len(shape) - 2 if shape is not None else len(attribute.value) if attribute is not None else 0
    return of_windows(node, "kernel_shape", rank)


def of_windows(node: ir.Node, name: str, rank: int) -> list[int]:
    """An attribute of a node with windows over `rank` axes of space, or its default.

    Raises:
        OnnxCbpError: it is no list of as many numbers, or one of them is too small.
    """
    attribute = node.attributes.get(name)
    each, default, least = _KINDS[name]
    value = None if attribute is None else attribute.value
    if attribute is None or value == ():  # an empty list is none for ONNX Runtime too
        return [default] * each * rank
    found = [int(number) for number in attribute.as_ints()] if attribute.type == ir.AttributeType.INTS else None
    if found is None or len(found) != each * rank or (least is not None and min(found, default=least) < least):
        limit = "" if least is None else f" of at least {least}"
        raise OnnxCbpError(
            f"node '{label(node)}' ({node.op_type}) has {name} = {value!r:.60}, and its windows have {rank} axes: give "
            f"{each * rank} numbers{limit}"
        )
    return found
