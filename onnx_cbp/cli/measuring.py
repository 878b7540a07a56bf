"""Shared by both forms of `onnx-cbp bench`: what they show and write."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from onnx_cbp.cli.document import STDOUT

_SECONDS_A_LINE = 10.0
#: With a higher load average, other programs disturb the measurements.
_BUSY = 0.5


def check_outputs(json_file: str | None, plot_file: str | None) -> None:
    """Check before the run whether its results can be written.

    Raises:
        OnnxCbpError: a folder is not there, or a picture cannot be drawn.
    """
    from onnx_cbp.bench.plot import check_plot
    from onnx_cbp.errors import OnnxCbpError

    if plot_file is not None:
        check_plot(plot_file)
    for path in (json_file, plot_file):
        if path not in (None, STDOUT) and not Path(path).absolute().parent.is_dir():
            raise OnnxCbpError(f"'{path}' cannot be written: there is no such folder")


def say_machine(machine: Mapping[str, Any], versions: str) -> None:
    """Print where it runs, and whether the results can be trusted."""
    from onnx_cbp.cli.text import console, say

    out = console()
    say(out, f"on {machine['cores']} cores of {machine['processor']}; {versions}")
    if machine["load_average"] > _BUSY:
        say(out, f"the machine is busy (load {machine['load_average']:.1f}): trust no figure of this run alone")


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr; if that is no terminal, a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _lines(name, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"measuring {name}", total=total)
        yield lambda: bar.advance(task)


def _lines(name: str, total: int) -> Callable[[], None]:
    done, last = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, last
        done += 1
        if done < total and time.monotonic() - last >= _SECONDS_A_LINE:
            last = time.monotonic()
            click.echo(f"measuring {name}: {done} of {total}", err=True)

    return advance


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{seconds * 1e3:.3g}"
