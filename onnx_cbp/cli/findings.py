"""The table of a model's batch norms, which `inspect` and `rewrite` both print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
from rich.table import Table
from rich.text import Text

from onnx_cbp.cli.text import printable, table
from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.rewriting import Finding

_COLLECTIVES = ("AllGather", "AllReduce", "AllReduceBucket")


def findings_table(findings: Sequence[Finding], last: str) -> Table:
    """One row a batch norm; `last` heads the column of what happens to it."""
    rows = [
        (
            Text(printable(_name(f)), style="bold" if f.rewritten else ""),
            f.form,
            f.shape,
            Text(printable(f.explanation), style="" if f.rewritten else "yellow"),
        )
        for f in findings
    ]
    return table(("node", "form", "shape of X", last), rows)


def _name(finding: Finding) -> str:
    """The name of the node, with the path of its module where that is known; an option takes either."""
    return f"{finding.node} ({finding.module})" if finding.module else finding.node


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How many there are, and how many of them are rewritten."""
    rewritten = sum(f.rewritten for f in findings)
    return {
        "total": len(findings),
        "rewritten": rewritten,
        "left_alone": len(findings) - rewritten,
    }


def summary(findings: Sequence[Finding], verb: str) -> str:
    """The counts in one line."""
    number = counts(findings)
    nodes = "batch norm node" if number["total"] == 1 else "batch norm nodes"
    return f"{number['total']} {nodes}: {number['rewritten']} {verb}, {number['left_alone']} left alone"


def messages(model: onnx.ModelProto) -> str:
    """The collectives of a model's main graph by kind, in words; "" where there are none."""
    number = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    return ", ".join(f"{number[kind]} {kind}" for kind in _COLLECTIVES if number[kind])
