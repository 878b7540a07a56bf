"""Shows progress on stderr, if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def steps(names: Sequence[str]) -> Iterator[Iterator[str]]:
    """A progress bar over the steps, on stderr if that is a terminal; call `next` at the start of each step."""
    if not sys.stderr.isatty():
        yield iter(names)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(names))

        def shown() -> Iterator[str]:
            for done, name in enumerate(names):
                progress.update(task, description=name, completed=done)
                yield name

        yield shown()
