"""`onnx-cbp inspect`: lists the batch norms of a model, and what would happen to each."""

from __future__ import annotations

from typing import Any

import click

from onnx_cbp.cli.document import STDOUT, JsonIsOptional, json_option, write_document
from onnx_cbp.cli.progress import steps
from onnx_cbp.cli.report import page_options, write_page


@click.command(cls=JsonIsOptional, short_help="Show the batch norms of a model.")
@click.argument("model", type=click.Path(readable=False))
@click.option("-v", "--verbose", is_flag=True, help="A row a layer, however many there are.")
@json_option
@page_options
def inspect(model: str, verbose: bool, json_file: str | None, **page: Any) -> None:
    """Show the batch norms of MODEL, and what rewrite would do to each or why not.

    Changes nothing. More than ten layers are summed up, a row a kind.
    """
    import onnx_cbp
    from onnx_cbp.cli.findings import counts, print_findings, summary
    from onnx_cbp.cli.text import console, say
    from onnx_cbp.model_files.model_io import load_model

    with steps([f"reading {model}"]) as step:
        next(step)
        source = load_model(model)  # once: it may be a pipe
        findings = onnx_cbp.inspect(source)
    write_page(model, source, **page)
    if json_file is not None:
        document = {
            "model": model,
            "counts": counts(findings),
            "findings": [f.as_dict() for f in findings],
        }
        write_document(json_file, document)
        if json_file == STDOUT:
            return
    out = console()
    print_findings(out, findings, "what rewrite does", verbose=verbose)
    say(out, summary(findings, "would be rewritten"))
