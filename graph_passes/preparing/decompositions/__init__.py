"""Writes ops with simpler ones: one file per family of ops, one rule per op.

A rule gets a `Formula`. It returns the value that replaces the node's first output (or a list of values, for all
outputs), or None if the node stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnx_cbp.graph_passes.core.formula import Formula
from onnx_cbp.graph_passes.preparing.decompositions import (
    activations,
    linear,
    losses,
    normalisations,
    pooling,
    reductions,
    resampling,
    shapes,
)

Rule = Callable[[Formula], ir.Value | list[ir.Value | None] | None]

RULES: dict[str, Rule] = {
    **activations.RULES,
    **linear.RULES,
    **losses.RULES,
    **normalisations.RULES,
    **pooling.RULES,
    **reductions.RULES,
    **resampling.RULES,
    **shapes.RULES,
}
