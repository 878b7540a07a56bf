"""Write docs/ops.md, the op reference, from the descriptions that schemas and kernels are made of, too."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from onnx_cbp.custom_ops import OPERATORS, Operator
from onnx_cbp.custom_ops.operator import Tensor

PAGE = Path(__file__).parent.parent / "ops.md"

_BEFORE = """\
# The ops

<!-- docs/tools/ops_page.py writes this page from custom_ops/ops: change it there. -->

The reference of all ops of the domain `onnx_cbp`, version 1. Letters mean:

- T is the type of the data: float, double, float16 or bfloat16.
- U is the type of the statistics: float or double.
- X has rank 2 or more. Its channels are at `axis`: 1 by default, -1 for NHWC.
- C is the number of channels, and M the number of elements of one channel.
- R is the number of replicas. The All... ops exchange values with other
  [replicas](distributed.md).

What the kernels guarantee, and tests check:

- The variance is within 1e-6 of float64 (relative) for N(0,1) + 1e6, and with a first element
  of 1e5.
- scale_grad and bias_grad are within half an ulp (the last bit) of the result, plus 1e-9 of the sum
  of the terms' magnitudes.
- Results are the same bits from run to run, and for every number of threads.
- An empty batch gives zeros.

[Mathematics](internals/mathematics.md) derives the formulas. After
`onnx_cbp.custom_ops.schemas.register_schemas()`, `onnx.defs` has the schemas.
[Write an op](tutorials/op.md) tells how to add one.
"""


def page() -> str:
    """The page's text."""
    rows = [f"| [{op.name}](#{op.name.lower()}) | {_first_sentence(op)} |" for op in OPERATORS.values()]
    overview = "\n".join(["| op | what it computes |", "|---|---|", *rows])
    return "\n".join([_BEFORE, overview, "", *(_section(op) for op in OPERATORS.values())]).rstrip() + "\n"


def _first_sentence(operator: Operator) -> str:
    text = operator.doc.split("\n\n")[0].replace("\n", " ")
    return re.split(r"[.:;] ", text)[0].rstrip(".:")


def _section(operator: Operator) -> str:
    lines = [f"## {operator.name}", "", _wrapped(operator.doc), "", "| | name | type | |", "|---|---|---|---|"]
    lines += [f"| input | {tensor.name} | {_type(tensor)} | {tensor.doc} |" for tensor in operator.inputs]
    lines += [f"| output | {tensor.name} | {_type(tensor)} | {tensor.doc} |" for tensor in operator.outputs]
    lines += [
        f"| attribute | {attribute.name} | {_kind(attribute.default)} | {attribute.doc} |"
        for attribute in operator.attributes
    ]
    if any(isinstance(attribute.default, tuple) for attribute in operator.attributes):
        lines += ["", "It has no Python op, because those of onnxruntime-extensions have no attributes that are lists."]
    return "\n".join([*lines, ""])


def _wrapped(text: str) -> str:
    """Paragraphs in lines of 100 columns; what is indented is code."""
    parts = text.split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else textwrap.fill(p, 100, break_on_hyphens=False) for p in parts)


#: Shapes that have names; the others are letters, one a dimension.
_SHAPES = {
    "X": "like X",
    "windows": "[N, C m, ...], one place per window",
    "kernel": "[C m, 1, k...]",
    "outputs": "[N, O, ...], one place per window",
    "weight": "[O, C, k...]",
    "exchanged weight": "[C, O, k...]",
}


def _type(tensor: Tensor) -> str:
    return f"{tensor.type} {_SHAPES.get(tensor.shape) or '[' + ','.join(tensor.shape) + ']'}"


def _kind(value: float | str | tuple[int, ...]) -> str:
    """The type of an attribute, and its default."""
    if isinstance(value, tuple):
        return "list of int"
    return f'str, default "{value}"' if isinstance(value, str) else f"{type(value).__name__}, default {value:g}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
