"""`onnx-cbp finalize`: a model for inference, in ONNX's own ops."""

from __future__ import annotations

import click

from onnx_cbp.cli.progress import steps


@click.command(short_help="Make a model for inference of a training graph.")
@click.argument("model", type=click.Path(readable=False))
@click.option(
    "-o", "--output", "out", type=click.Path(readable=False), required=True, metavar="OUT", help="File to write."
)
@click.option(
    "--checkpoint",
    type=click.Path(readable=False),
    metavar="CHECKPOINT",
    help="A checkpoint with the parameters' values: of onnx_cbp.training, or ONNX Runtime's.",
)
@click.option(
    "--output-name",
    "names",
    multiple=True,
    metavar="NAME",
    help="A value to keep as an output, instead of what feeds the loss; may be repeated.",
)
@click.option(
    "--keep-batch-statistics",
    is_flag=True,
    help="Let batch norms without running statistics take those of the batch, as PyTorch's do.",
)
def finalize(model: str, out: str, checkpoint: str | None, names: tuple[str, ...], keep_batch_statistics: bool) -> None:
    """Write MODEL, a training, evaluation or forward graph, to OUT as it is at inference.

    OUT has ONNX's own ops only: it needs neither onnx-cbp nor a training build. It is written whole or not at all.
    """
    import onnx_cbp
    from onnx_cbp.cli.text import console, say
    from onnx_cbp.model_files.model_io import load_model, save_model

    done: list[onnx_cbp.Finalized] = []
    with steps([f"reading {model}", "finalizing", f"writing {out}"]) as step:
        next(step)
        source = load_model(model)
        next(step)
        result = onnx_cbp.finalize(
            source,
            checkpoint=checkpoint,
            outputs=names or None,
            keep_batch_statistics=keep_batch_statistics,
            report=done.append,
        )
        del source  # for large models: writing needs memory too
        next(step)
        save_model(result, out)
    (what,) = done
    norms = "batch norm" if what.batch_norms == 1 else "batch norms"
    screen = console()
    say(screen, f"{what.batch_norms} {norms}: {what.folded} folded into the weights before them")
    if what.by_batch:
        names_of = ", ".join(what.by_batch)
        say(screen, f"{len(what.by_batch)} without running statistics, which take those of the batch: {names_of}")
    say(screen, f"{', '.join(what.inputs)} -> {', '.join(what.outputs)}")
    say(screen, f"wrote {out}")
