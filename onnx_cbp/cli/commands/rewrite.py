"""`onnx-cbp rewrite`: replaces batch norms of a model with our ops."""

from __future__ import annotations

import click

from onnx_cbp.cli.progress import steps
from onnx_cbp.cli.synchronizing import GroupIsOptional, groups
from onnx_cbp.cli.told import warned


@click.command(cls=GroupIsOptional, short_help="Put channel ops in the place of batch norms.")
@click.argument("model", type=click.Path(readable=False))
@click.option(
    "-o", "--output", type=click.Path(readable=False), required=True, metavar="OUT", help="File to write; may be MODEL."
)
@click.option("--portable", is_flag=True, help="Attach function bodies: OUT also runs where onnx-cbp is not installed.")
@click.option(
    "--standard-ops",
    is_flag=True,
    help="Put the function bodies in the places of the ops: what to hold a model that was made with ops of onnx-cbp "
    "against, in 'onnx-cbp check'.",
)
@click.option(
    "--one-pass/--no-one-pass",
    default=True,
    help="One op for statistics and normalisation (the default), or the ops between which to synchronise.",
)
@click.option("--fold-relu/--no-fold-relu", default=True, help="Fold a Relu into the one-pass op before it.")
@click.option(
    "--recompute-relu/--no-recompute-relu",
    default=True,
    help="Compute a folded Relu's mask once more for the gradient (the default), or read the Relu's result.",
)
@click.option(
    "--synchronize",
    metavar="[GROUP]",
    help="Take batch statistics over all replicas, or over those of a group: 'size:K' for K consecutive replicas each, "
    "or --synchronize=NAME for one that initialize() is given.",
)
@click.option(
    "--synchronize-layers",
    "layers",
    multiple=True,
    metavar="PATTERN",
    help="Synchronize the batch norms with these names only (of a node, or of a PyTorch module as inspect shows it; "
    "'*' matches any text); may be repeated.",
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="PATTERN",
    help="Freeze the batch norms with these names: they keep their running statistics; may be repeated.",
)
@click.option("--data-parallel", is_flag=True, help="Make loss and gradients those of all replicas' samples.")
@click.option(
    "--bucket-cap-mb",
    type=click.FloatRange(0, min_open=True),
    help="Megabytes of gradients in one message of --data-parallel at most.  [default: 25]",
)
@click.option(
    "--unbiased-running-var",
    is_flag=True,
    help="Update running variances by PyTorch's convention, count / (count - 1) of the batch's, not by ONNX's.",
)
@click.option(
    "--train",
    multiple=True,
    metavar="PATTERN",
    help="Make batch norms in inference form with these names train ('*' matches any text); may be repeated.",
)
@click.option(
    "--momentum",
    "momenta",
    multiple=True,
    metavar="[PATTERN=]NUMBER|cumulative",
    help="The part of a running statistic that a step keeps (1 minus PyTorch's momentum), or the average over all "
    "batches (PyTorch's momentum=None); of the batch norms with these names, or of all; may be repeated.",
)
@click.option("-v", "--verbose", is_flag=True, help="A row a layer, however many there are.")
def rewrite(
    model: str,
    output: str,
    portable: bool,
    standard_ops: bool,
    one_pass: bool,
    fold_relu: bool,
    recompute_relu: bool,
    synchronize: str | None,
    layers: tuple[str, ...],
    freeze: tuple[str, ...],
    data_parallel: bool,
    bucket_cap_mb: float | None,
    unbiased_running_var: bool,
    train: tuple[str, ...],
    momenta: tuple[str, ...],
    verbose: bool,
) -> None:
    """Put channel ops in the place of every batch norm of MODEL that trains, and write the result to OUT.

    OUT is written whole or not at all. A model with nothing to rewrite comes out unchanged.
    """
    import onnx_cbp
    from onnx_cbp.cli.findings import messages, print_findings, summary
    from onnx_cbp.cli.text import console, say
    from onnx_cbp.model_files.model_io import load_model, save_model
    from onnx_cbp.twin import inlined

    with steps([f"reading {model}", "rewriting", f"writing {output}"]) as step:
        next(step)
        source = load_model(model)
        functions = len(source.functions)
        next(step)
        findings: list[onnx_cbp.Finding] = []
        with warned("momentum") as warnings, warned("nothing to rewrite") as unchanged:  # a momentum of 0 or 1
            result = onnx_cbp.rewrite(
                source,
                portable=portable or standard_ops,
                one_pass=one_pass,
                fold_relu=fold_relu,
                recompute_relu=recompute_relu,
                synchronize=groups(synchronize, layers),
                data_parallel=data_parallel,
                freeze=freeze,
                **({} if bucket_cap_mb is None else {"bucket_cap_mb": bucket_cap_mb}),
                unbiased_running_var=unbiased_running_var,
                train=train,
                momentum=_momenta(momenta),
                report=findings.extend,
            )
        bodies = len(result.functions) - functions
        if standard_ops:
            result = inlined(result)
        del source  # for large models: writing needs memory too
        next(step)
        save_model(result, output)
    out = console()
    print_findings(out, findings, "what was done", verbose=verbose)
    say(out, summary(findings, "rewritten"))
    for line in warnings:
        say(out, line)
    if sent := messages(result):
        say(out, f"each replica takes part in {sent} a step")
    attached = f", with {bodies} function bodies attached" if bodies else ""
    if standard_ops:
        attached = ", in ONNX's own ops"
    if unchanged:
        say(out, f"nothing to rewrite: wrote {output}, which is {model} unchanged")
    else:
        say(out, f"wrote {output}{attached}")


def _momenta(given: tuple[str, ...]) -> dict[str, float | str] | None:
    """The options, as `rewrite` accepts them."""
    momenta: dict[str, float | str] = {}
    for text in given:
        pattern, sign, kept = text.rpartition("=")
        try:
            momenta[pattern if sign else "*"] = float(kept)
        except ValueError:
            momenta[pattern if sign else "*"] = kept  # "cumulative", or a text that is refused
    return momenta or None
