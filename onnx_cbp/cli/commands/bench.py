"""`onnx-cbp bench`: our kernels against those of other libraries, or rewritten training steps against the original."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnx_cbp.cli.commands.bench_steps import bench_steps
from onnx_cbp.cli.document import STDOUT, write_document
from onnx_cbp.cli.measuring import check_outputs, milliseconds, progress, say_machine

if TYPE_CHECKING:
    from onnx_cbp.bench import Row, Settings

_DIFFERENT = 1
_OPS = (
    "BatchNormTrainUpdate",
    "BatchNormGrad",
    "BatchNormReluGrad",
    "BatchNormRecomputeReluGrad",
    "ChannelStats",
    "ChannelBackpropStats",
    "ChannelNormalize",
    "ChannelBackprop",
)
#: Options that belong to only one form of the command, by parameter.
_OF_KERNELS = {"sets": "--shapes", "ops": "--op", "data": "--type", "runtimes": "--runtime"}
_OF_STEPS = {"batch": "--batch"}


@click.command(short_help="Measure the kernels, or training steps.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--shapes", "sets", multiple=True, metavar="SET", help="A shape set or a JSON file of one.  [default: resnet50]"
)
@click.option("--op", "ops", multiple=True, type=click.Choice(_OPS), help="What to measure.  [default: all]")
@click.option(
    "--type",
    "data",
    type=click.Choice(["float32", "float64", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of X.",
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME=PYTHON", help="Measure that interpreter's too.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="What symbolic dimensions of a MODEL's inputs become.",
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(min=1, max=1024),
    default=(1, 2),
    show_default=True,
    help="Threads of every library.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Medians are of so many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write all results there; - is standard output, and the tables go to standard error then.",
)
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False), metavar="FILE", help="Draw the ratios there.")
@click.option("--quick", is_flag=True, help="Little data, short rounds: shows that it runs, and no speed.")
@click.pass_context
def bench(
    context: click.Context,
    models: tuple[str, ...],
    sets: tuple[str, ...],
    ops: tuple[str, ...],
    data: str,
    runtimes: tuple[str, ...],
    batch: int,
    threads: tuple[int, ...],
    rounds: int,
    seed: int,
    json_file: str | None,
    plot_file: str | None,
    quick: bool,
) -> None:
    """Measure the kernels, or the training steps of MODELs.

    A MODEL is a folder of ONNX Runtime training artifacts, or the .onnx file of a graph. It is rewritten, both get the
    same made-up inputs, and both run in turn, each in a process of its own. Columns: median time of a step, the ratio
    original / rewritten (above 1, the rewritten one is faster) and its spread over the rounds; BN ms, what batch
    norms and what is folded into them take, in the original and rewritten; BN share, their part of the original's step;
    the part of the step that the rewrite
    saves; and the memory that the steps take.

    Without a MODEL, kernels are measured against what ONNX Runtime and PyTorch have for the same. Peers are those of
    this Python and of every --runtime: another Python interpreter, which needs numpy and onnxruntime or torch. Each
    library runs in a process of its own, one at a time, in rounds that take turns. What a peer computes is compared
    first; where it differs from ours, it is not measured. Columns: median time, GB/s with every byte counted once, % of
    the speed at which so many bytes can be read, and for each peer its time over ours: above 1, ours is faster.

    Exit status: 0 measured, 1 a peer, or the rewritten step, computes something else, 2 bad input.
    """
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for name, option in (_OF_KERNELS if models else _OF_STEPS).items():
        if name in given:
            other = "is of kernels: leave it out, or leave out the MODEL" if models else "needs a MODEL"
            raise click.UsageError(f"{option} {other}")
    from onnx_cbp.bench import Settings, StepSettings

    check_outputs(json_file, plot_file)
    counts = tuple(dict.fromkeys(threads))
    if models:
        steps = StepSettings(tuple(dict.fromkeys(models)), batch, counts, rounds, seed, quick)
        measure = partial(bench_steps, steps, plot_file)
    else:
        kernels = Settings(tuple(dict.fromkeys(ops)) or _OPS, counts, rounds, data, seed, quick)
        measure = partial(_bench_kernels, sets, _named(runtimes), kernels, plot_file)
    with redirect_stdout(sys.stderr) if json_file == STDOUT else nullcontext():
        agree, document = measure()
    if json_file is not None:
        write_document(json_file, document)
    sys.exit(0 if agree else _DIFFERENT)


def _bench_kernels(
    sets: tuple[str, ...],
    named: Mapping[str, str],
    settings: Settings,
    plot_file: str | None,
) -> tuple[bool, Mapping[str, Any]]:
    """Measure, print and draw.

    Returns:
        Whether every peer computes what our kernels do, and all results as a document.
    """
    from onnx_cbp.bench import Bench, Runtime, as_document, find_runtimes, load_shapes, machine
    from onnx_cbp.bench.plot import draw
    from onnx_cbp.custom_ops.library import get_library_path

    loaded = [load_shapes(name) for name in dict.fromkeys(sets or ("resnet50",))]
    library = get_library_path()
    found = find_runtimes(named)
    on = machine()
    rows: list[Row] = []
    own = Runtime("ours", sys.executable, "onnxruntime")
    with Bench(settings, own, found, library) as candidates:
        say_machine(on, _versions(candidates.versions))
        for shapes in loaded:
            total = len(shapes.shapes) * len(settings.ops) * len(settings.threads)
            with progress(shapes.name, total) as done:
                of_set = []
                for row in candidates.run(shapes):
                    of_set.append(row)
                    done()
            rows += of_set
            _print(shapes.name, shapes.description, of_set)
        versions = candidates.versions
    if plot_file is not None:
        draw(rows, plot_file)
    _say_missing(rows)
    return all(row.agrees for row in rows), as_document(rows, settings.as_dict(), versions, on)


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
    """Which version of which library each runtime has."""
    known = (f"{name}: {lib} {v[lib]}" for name, v in versions.items() for lib in ("onnxruntime", "torch") if lib in v)
    return ", ".join(known)


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
            milliseconds(row.ours.median),
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
    out.print(table((*heads, *columns), cells, right=(*heads[2:], *columns), whole=("op", "shape", "ms", "GB/s")))
    without = {p.column: p.missing for row in rows for p in row.peers if p.column not in columns}
    for column, reason in without.items():
        say(out, f"{column}: nothing to measure ({reason.split(' : ')[-1]})")


def _say_missing(rows: Sequence[Row]) -> None:
    from onnx_cbp.cli.text import console, say

    out = console()
    for row in rows:
        for peer in row.peers:
            if not peer.agrees:
                say(out, f"{row.op} on {row.shape.name}, {row.threads} threads: {peer.column}: {peer.missing}")
