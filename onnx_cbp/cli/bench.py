"""`onnx-cbp bench`: our kernels against those of ONNX Runtime and PyTorch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx_cbp.bench import Row

_DIFFERENT = 1
#: Load average above which others take enough of the machine to spoil a figure.
_BUSY = 0.5
_OPS = (
    "BatchNormTrainUpdate",
    "BatchNormGrad",
    "BatchNormReluGrad",
    "ChannelStats",
    "ChannelBackpropStats",
    "ChannelNormalize",
    "ChannelBackprop",
)


@click.command(short_help="Measure the kernels against other libraries'.")
@click.option(
    "--shapes", "sets", multiple=True, metavar="SET", help="A shape set or a JSON file of one.  [default: resnet50]"
)
@click.option("--op", "ops", multiple=True, type=click.Choice(_OPS), help="What to measure.  [default: all]")
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(min=1, max=1024),
    default=(1, 2),
    show_default=True,
    help="Threads of every library.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Medians are of so many.")
@click.option(
    "--type",
    "data",
    type=click.Choice(["float32", "float64", "float16"]),
    default="float32",
    show_default=True,
    help="Of X.",
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME=PYTHON", help="Measure that interpreter's too.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE", help="Write all results there.")
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False), metavar="FILE", help="Draw the ratios there.")
@click.option("--quick", is_flag=True, help="Tiny shapes, short rounds: shows that it runs, and no speed.")
def bench(
    sets: tuple[str, ...],
    ops: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    data: str,
    runtimes: tuple[str, ...],
    seed: int,
    json_file: str | None,
    plot_file: str | None,
    quick: bool,
) -> None:
    """Measure the kernels against what ONNX Runtime and PyTorch have for the same.

    Peers are those of this Python and of every --runtime: another Python interpreter, which needs numpy and
    onnxruntime or torch. Each library runs in a process of its own, one at a time, in rounds that take turns.
    What a peer computes is compared first; where it differs from ours, it is not measured.

    Columns: median time, GB/s with every byte counted once, % of the speed at which so many bytes can be read, and for
    each peer its time over ours: above 1, ours is faster.

    Exit status: 0 measured, 1 a peer computes something else, 2 bad input.
    """
    from onnx_cbp.bench import Bench, Runtime, Settings, as_document, find_runtimes, load_shapes, machine
    from onnx_cbp.bench.plot import check_plot, draw
    from onnx_cbp.cli.text import console, say
    from onnx_cbp.custom_ops.library import get_library_path

    named = _named(runtimes)
    loaded = [load_shapes(name) for name in dict.fromkeys(sets or ("resnet50",))]
    settings = Settings(tuple(dict.fromkeys(ops)) or _OPS, tuple(dict.fromkeys(threads)), rounds, data, seed, quick)
    library = get_library_path()
    if plot_file is not None:
        check_plot(plot_file)
    for path in (json_file, plot_file):
        if path is not None:
            _check_folder(path)
    found = find_runtimes(named)
    on = machine()
    out = console()
    rows: list[Row] = []
    own = Runtime("ours", sys.executable, "onnxruntime")
    with Bench(settings, own, found, library) as candidates:
        say(out, f"on {on['cores']} cores of {on['processor']}; {_versions(candidates.versions)}")
        if on["load_average"] > _BUSY:
            say(out, f"the machine is busy (load {on['load_average']:.1f}): trust no figure of this run alone")
        for shapes in loaded:
            total = len(shapes.shapes) * len(settings.ops) * len(settings.threads)
            with _progress(shapes.name, total) as done:
                of_set = []
                for row in candidates.run(shapes):
                    of_set.append(row)
                    done()
            rows += of_set
            _print(shapes.name, shapes.description, of_set)
        versions = candidates.versions
    if json_file is not None:
        document = as_document(rows, settings.as_dict(), versions, on)
        Path(json_file).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        draw(rows, plot_file)
    _say_missing(rows)
    sys.exit(0 if all(row.agrees for row in rows) else _DIFFERENT)


def _named(runtimes: Sequence[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for given in runtimes:
        name, equals, python = given.partition("=")
        if not (name and equals and python):
            raise click.BadParameter(f"'{given}' is not NAME=PYTHON", param_hint="'--runtime'")
        if name in ("this", "ours", *named):
            raise click.BadParameter(f"the name '{name}' is taken", param_hint="'--runtime'")
        named[name] = python
    return named


def _versions(versions: Mapping[str, Mapping[str, Any]]) -> str:
    """Which library each runtime is."""
    known = (f"{name}: {lib} {v[lib]}" for name, v in versions.items() for lib in ("onnxruntime", "torch") if lib in v)
    return ", ".join(known)


def _check_folder(path: str) -> None:
    from onnx_cbp.errors import OnnxCbpError

    if not Path(path).absolute().parent.is_dir():
        raise OnnxCbpError(f"'{path}' cannot be written: there is no such folder")


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"measuring {name}", total=total)
        yield lambda: progress.advance(task)


def _print(name: str, description: str, rows: Sequence[Row]) -> None:
    from rich.text import Text

    from onnx_cbp.cli.text import console, say, table

    out = console()
    columns = list(dict.fromkeys(p.column for row in rows for p in row.peers if p.times.rounds or not p.agrees))
    cells: list[list[str | Text]] = []
    for row in rows:
        peers = {p.column: p for p in row.peers}
        cell: list[str | Text] = [
            row.op,
            f"{row.shape.name} {'x'.join(map(str, row.shape.dimensions))}",
            str(row.threads),
            _milliseconds(row.ours.median),
            f"{row.gb_per_s:.1f}",
            f"{row.percent_of_read:.0f}",
        ]
        for column in columns:
            peer = peers.get(column)
            ratio = row.ratio(peer) if peer else None
            if peer is not None and not peer.agrees:
                cell.append(Text("differs", style="bold red"))
            elif ratio is None:
                cell.append("-")
            else:
                cell.append(Text(f"{ratio:.2f}", style="green" if ratio >= 1 else "yellow"))
        cells.append(cell)
    data = rows[0].data
    say(out, f"{name} ({data}): {description}" if description else f"{name} ({data})")
    heads = ("op", "shape", "threads", "ms", "GB/s", "% of read")
    out.print(table((*heads, *columns), cells, right=(*heads[2:], *columns)))


def _say_missing(rows: Sequence[Row]) -> None:
    from onnx_cbp.cli.text import console, say

    out = console()
    for row in rows:
        for peer in row.peers:
            if not peer.agrees:
                say(out, f"{row.op} on {row.shape.name}, {row.threads} threads: {peer.column}: {peer.missing}")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"
