"""Ops in terms of simpler ones, one file for each family. Each rule makes the nodes that replace one.

A rule is given a `Formula` and answers with the value that is to be the node's first output (a list of values: of all
its outputs), or with None where the node stays as it is.
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
