"""Reads what gradient rules ask of nodes: attributes that are lists or strings, and what an exporter recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir

from onnx_cbp.graph_passes.core.stopped import CALL
from onnx_cbp.graph_passes.dialects._reading import WrongAttributeError

_PADDING = re.compile(r"aten\.embedding\.default\]\(args = \(%\w+, %\w+, (\d+)")


def ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """A list of integers, or the default.

    Raises:
        WrongAttributeError: the attribute has another type.
    """
    value = node.attributes.get(name)
    if value is None:
        return list(default)
    try:
        return [int(each) for each in value.as_ints()]
    except TypeError:
        raise WrongAttributeError(f"attribute '{name}' has type {value.type.name}, expected INTS") from None


def text(node: ir.Node, name: str, default: str) -> str:
    """A string, or the default.

    Raises:
        WrongAttributeError: the attribute has another type.
    """
    value = node.attributes.get(name)
    if value is None:
        return default
    try:
        return value.as_string()
    except TypeError:
        raise WrongAttributeError(f"attribute '{name}' has type {value.type.name}, expected STRING") from None


def padding_of(node: ir.Node) -> int | None:
    """The `padding_idx` of an embedding that PyTorch's default exporter wrote: its row has no gradient there."""
    found = _PADDING.search(node.metadata_props.get(CALL, ""))
    return None if found is None else int(found.group(1))
