"""`onnx-cbp inspect`: what batch norms a model has and what would happen to each."""

from __future__ import annotations

import json
from typing import Any

import click

from onnx_cbp.cli.progress import steps
from onnx_cbp.cli.report import page_options, write_page


@click.command(short_help="Show the batch norms of a model.")
@click.argument("model", type=click.Path(readable=False))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of a table.")
@page_options
def inspect(model: str, as_json: bool, **page: Any) -> None:
    """Show the batch norms of MODEL, and what rewrite would do to each or why not.

    Changes nothing.
    """
    import onnx_cbp
    from onnx_cbp.cli.findings import counts, findings_table, summary
    from onnx_cbp.cli.text import console, say

    with steps([f"reading {model}"]) as step:
        next(step)
        findings = onnx_cbp.inspect(model)
    write_page(model, **page)
    if as_json:
        document = {
            "model": model,
            "counts": counts(findings),
            "findings": [f.as_dict() for f in findings],
        }
        click.echo(json.dumps(document, indent=2))
        return
    out = console()
    if findings:
        out.print(findings_table(findings, "what rewrite does"))
    say(out, summary(findings, "would be rewritten"))
