"""The options of `onnx-cbp inspect` that write a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import onnx

_OPTIONS = (
    click.option(
        "--html",
        "page",
        type=click.Path(readable=False),
        metavar="FILE",
        help="Also write a page: the batch norms, drawn before and after, their statistics, and what check finds.",
    ),
    click.option(
        "--data",
        type=click.Path(readable=False),
        help="With --html: a .npz file of arrays named as MODEL's inputs (others are not read), or a folder of such "
        "files, to hold the running statistics against.",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), help="Cut each file of --data into batches."),
    click.option(
        "--checkpoint", type=click.Path(readable=False), help="With --html: a checkpoint with MODEL's parameters."
    ),
    click.option("--check/--no-check", default=True, help="With --html: run MODEL and its rewrite (the default)."),
)


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `write_page`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def write_page(
    model: str,
    source: onnx.ModelProto,
    page: str | None,
    data: str | None,
    batch_size: int | None,
    checkpoint: str | None,
    check: bool,
) -> None:
    """Write the page of a file's model if the user wants one.

    Raises:
        click.BadParameter: an option of the page is given without a page.
    """
    if page is None:
        given = {"--data": data, "--batch-size": batch_size, "--checkpoint": checkpoint, "--no-check": not check}
        unused = next((name for name, value in given.items() if value), None)
        if unused is not None:
            raise click.BadParameter("it is for the page: give --html FILE, too", param_hint=f"'{unused}'")
        return
    from onnx_cbp.cli.commands.update_bn import batches_of
    from onnx_cbp.cli.progress import steps
    from onnx_cbp.report import write_report

    batches = None
    if data is not None:
        batches = batches_of(Path(data), batch_size, {value.name for value in source.graph.input})
    with steps([f"writing {page}"]) as step:
        next(step)
        write_report(source, page, batches=batches, checkpoint=checkpoint, check=check, name=Path(model).name)
