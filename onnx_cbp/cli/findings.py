"""The table of batch norms that `inspect` and `rewrite` print: one row for each layer, or kind of layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from rich.console import Console
from rich.text import Text

from onnx_cbp.cli.text import printable, shortened, table, wrapped
from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.rewriting import Finding

_COLLECTIVES = ("AllGather", "AllReduce", "AllReduceBucket")
#: More layers than this are summed up, unless all rows are wanted.
_FEW = 10
_STATES = {
    "rewritten": "onnx_cbp ops",
    "frozen": "left alone: frozen",
    "done": "left alone: done",
    "refused": "left alone",
}
#: Short names of forms, so that a row fits 80 columns.
_SHORT = (
    ("BatchNormalizationGrad", "BatchNormGrad"),
    ("BatchNormalization", "BatchNorm"),
    ("training_mode = 1", "trains"),
    ("inference form", "inference"),
    (" statistics)", ")"),
)
_WIDEST_SHAPE = 16


@dataclass(frozen=True)
class _Layer:
    """A batch norm: forward, and backward if the same happens to both."""

    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """The name of the node, with the path of its module if that is known; an option accepts either."""
        first = self.findings[0]
        return f"{first.node} ({first.module})" if first.module else first.node

    @property
    def form(self) -> str:
        form = self.findings[0].form
        for long, short in _SHORT:
            form = form.replace(long, short)
        return form + (" + Grad" if len(self.findings) > 1 else "")

    @property
    def state(self) -> str:
        return self.findings[0].state

    @property
    def shape(self) -> str:
        return self.findings[0].shape


def _layers(findings: Sequence[Finding]) -> list[_Layer]:
    """Gradients together with their forward nodes, if the same happens to both."""
    by_name = {finding.node: finding for finding in findings if not finding.forward}
    gradients: dict[str, Finding] = {}
    for finding in findings:
        of = by_name.get(finding.forward)
        if of is not None and of.state == finding.state:
            gradients.setdefault(of.node, finding)
    joined = {id(finding) for finding in gradients.values()}
    return [
        _Layer(
            (finding, gradients[finding.node])
            if by_name.get(finding.node) is finding and finding.node in gradients
            else (finding,)
        )
        for finding in findings
        if id(finding) not in joined
    ]


def print_findings(out: Console, findings: Sequence[Finding], last: str, *, verbose: bool) -> None:
    """Print the table, and the reasons; `last` is the heading of the column that says what happens."""
    layers = _layers(findings)
    if not layers:
        return
    if verbose or len(layers) <= _FEW:
        rows: list[Sequence[str | Text]] = [
            (
                Text(printable(layer.name), style="bold" if layer.state == "rewritten" else ""),
                shortened(layer.form, 30),
                shortened(layer.shape, _WIDEST_SHAPE),
                _becomes(layer.state),
            )
            for layer in layers
        ]
        out.print(table(("node", "form", "X", last), rows, cut=("node", out.width)))
    else:
        kinds: dict[tuple[str, str], list[_Layer]] = {}
        for layer in layers:
            kinds.setdefault((layer.form, layer.state), []).append(layer)
        rows = [
            (str(len(alike)), shortened(form, 30), _shapes(alike), _becomes(state))
            for (form, state), alike in kinds.items()
        ]
        out.print(table(("layers", "form", "X", last), rows, right=("layers",), cut=("form", out.width)))
    for line in _reasons(findings):
        wrapped(out, line, indent="  ")
    if len(layers) > _FEW and not verbose:
        wrapped(out, "--verbose lists the layers, and --json all that is known of them")


def _becomes(state: str) -> Text:
    return Text(_STATES[state], style="" if state == "rewritten" else "yellow")


def _shapes(layers: Sequence[_Layer]) -> str:
    first, last = (shortened(layer.shape, _WIDEST_SHAPE) for layer in (layers[0], layers[-1]))
    return first if first == last else f"{first} to {last}"


def _reasons(findings: Sequence[Finding]) -> list[str]:
    """What happens to each node, or why nothing does; equal reasons become one line, with one name for all."""
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(finding.explanation.replace(f"'{finding.node}'", "''"), []).append(finding)
    lines = []
    for nodes in alike.values():
        if len(nodes) == 1:
            lines.append(f"'{nodes[0].node}': {nodes[0].explanation}")
        else:
            such_as = f", as '{nodes[0].node}'" if nodes[0].state != "rewritten" else ""
            lines.append(f"{len(nodes)} nodes{such_as}: {nodes[0].explanation}")
    return lines


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
    """The collectives of a model's main graph by kind, in words; "" if there are none."""
    number = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    return ", ".join(f"{number[kind]} {kind}" for kind in _COLLECTIVES if number[kind])
