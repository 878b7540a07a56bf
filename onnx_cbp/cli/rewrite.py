"""`onnx-cbp rewrite`: a model with channel ops in the place of its batch norms."""

from __future__ import annotations

import click

from onnx_cbp.cli.progress import steps


@click.command(short_help="Put channel ops in the place of batch norms.")
@click.argument("model", type=click.Path(readable=False))
@click.option(
    "-o", "--output", type=click.Path(readable=False), required=True, metavar="OUT", help="File to write; may be MODEL."
)
@click.option("--portable", is_flag=True, help="Attach function bodies: OUT also runs where onnx-cbp is not installed.")
@click.option(
    "--one-pass/--no-one-pass",
    default=True,
    help="One op for statistics and normalisation (the default), or the ops between which to synchronise.",
)
@click.option("--fold-relu/--no-fold-relu", default=True, help="Fold a Relu into the one-pass op before it.")
@click.option("--synchronize", is_flag=True, help="Take batch statistics over all replicas.")
@click.option("--data-parallel", is_flag=True, help="Sum the gradients over all replicas.")
def rewrite(
    model: str,
    output: str,
    portable: bool,
    one_pass: bool,
    fold_relu: bool,
    synchronize: bool,
    data_parallel: bool,
) -> None:
    """Put channel ops in the place of every batch norm of MODEL that trains, and write the result to OUT.

    OUT is written whole or not at all. A model with nothing to rewrite comes out unchanged.
    """
    import onnx_cbp
    from onnx_cbp.cli.findings import findings_table, summary
    from onnx_cbp.cli.text import console, say
    from onnx_cbp.model_io import load_model, save_model

    with steps([f"reading {model}", "rewriting", f"writing {output}"]) as step:
        next(step)
        source = load_model(model)
        next(step)
        findings: list[onnx_cbp.Finding] = []
        result = onnx_cbp.rewrite(
            source,
            portable=portable,
            one_pass=one_pass,
            fold_relu=fold_relu,
            synchronize=synchronize,
            data_parallel=data_parallel,
            report=findings.extend,
        )
        bodies = len(result.functions) - len(source.functions)
        next(step)
        save_model(result, output)
    out = console()
    if findings:
        out.print(findings_table(findings, "what was done"))
    say(out, summary(findings, "rewritten"))
    attached = f", with {bodies} function bodies attached" if bodies else ""
    if any(f.rewritten for f in findings) or bodies:
        say(out, f"wrote {output}{attached}")
    else:
        say(out, f"nothing to rewrite: wrote {output}, which is {model} unchanged")
