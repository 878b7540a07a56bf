"""Reads attributes of nodes that are lists or strings, with their defaults, for gradient rules."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import WrongAttributeError


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
