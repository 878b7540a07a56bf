"""Draws all ratios of a benchmark in one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx_cbp.bench.results import Row
from onnx_cbp.bench.training_steps.step_results import StepRow
from onnx_cbp.errors import OnnxCbpError

#: The ops that a layer runs in training, since readers want these; the JSON has everything that was measured.
_DIRECTIONS = {"BatchNormTrainUpdate": "forward", "BatchNormGrad": "backward"}
_NEEDED = "a plot needs matplotlib: pip install matplotlib"


def check_plot(path: str) -> None:
    """Check before the run whether a plot can be drawn after it.

    Raises:
        OnnxCbpError: matplotlib is missing, or cannot write files with this ending.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise OnnxCbpError(_NEEDED) from None
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in FigureCanvasAgg.get_supported_filetypes():
        raise OnnxCbpError(f"'{path}' cannot be drawn: name a file that ends in .png, .svg or .pdf")


def draw(rows: Sequence[Row], path: str) -> None:
    """A bar for each layer and peer, forward and backward; other ops are drawn only if neither was measured."""
    measured = [row for row in rows if any(peer.times.rounds for peer in row.peers)]
    ops = list(dict.fromkeys(row.op for row in measured))
    shown = {op: f"{direction}: {op}" for op, direction in _DIRECTIONS.items() if op in ops}
    titles = shown or {op: op for op in ops}
    numbers = sorted({row.threads for row in rows})
    layers = list(dict.fromkeys(_layer(row) for row in measured))
    peers = list(dict.fromkeys(peer.column for row in measured for peer in row.peers if peer.times.rounds))
    with _figure(path, (2 + 0.16 * len(layers) * (len(peers) + 1) * len(numbers), 1.2 + 2.6 * len(titles))) as figure:
        panels = figure.subplots(len(titles), len(numbers), sharex=True, sharey="row", squeeze=False)
        for op, of_op in zip(titles, panels, strict=True):
            for number, axis in zip(numbers, of_op, strict=True):
                of_panel = [row for row in measured if row.op == op and row.threads == number]
                for index, peer in enumerate(peers):
                    _bars(axis, of_panel, layers, peer, index, len(peers))
                axis.axhline(1.0, color="black", linewidth=1)
                axis.set_yscale("log", base=2)
                axis.yaxis.set_major_formatter("{x:g}")
                axis.set_xticks(range(len(layers)), layers, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
                axis.grid(axis="y", alpha=0.3)
                axis.set_title(f"{titles[op]}, {_threads(number)}", fontsize=10)
            of_op[0].set_ylabel("peer's time / ours\n(above 1: ours is faster)", fontsize=8)
        _legend(figure, panels[0][0])


def _bars(axis: Any, rows: Sequence[Row], layers: Sequence[str], peer: str, index: int, peers: int) -> None:
    """One peer's bars, next to those of the others."""
    ratios = {_layer(row): ratio for row in rows for p in row.peers if p.column == peer and (ratio := row.ratio(p))}
    width = 0.8 / peers
    places = [layers.index(layer) + (index - (peers - 1) / 2) * width for layer in ratios]
    # Bars start at 1: slower results hang below the line.
    heights = [ratio - 1 for ratio in ratios.values()]
    axis.bar(places, heights, width, bottom=1, color=f"C{index}", label=peer, zorder=3)


def draw_steps(rows: Sequence[StepRow], path: str) -> None:
    """A dot for each training step with the range of its rounds, and its limit without batch norms."""
    measured = [row for row in rows if row.ratio is not None]
    lines = list(dict.fromkeys(row.model for row in measured))
    numbers = sorted({row.threads for row in rows})
    with _figure(path, (3 + 4.5 * len(numbers), 1.8 + 0.22 * len(lines))) as figure:
        axes = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
        for number, axis in zip(numbers, axes, strict=True):
            of_panel = [row for row in measured if row.threads == number]
            ys = [lines.index(row.model) for row in of_panel]
            axis.hlines(ys, [min(r.ratios) for r in of_panel], [max(r.ratios) for r in of_panel], color="C0", alpha=0.5)
            axis.scatter([row.ratio for row in of_panel], ys, s=36, color="C0", label="median", zorder=3)
            bounds = [(1 / (1 - b.share), y) for r, y in zip(of_panel, ys, strict=True) if (b := r.original.batch_norm)]
            label = "if batch norms took no time"
            axis.scatter([x for x, _ in bounds], [y for _, y in bounds], s=60, marker="|", color="C1", label=label)
            axis.set_xlabel("original's step / rewritten's (right of 1: rewritten is faster)")
            axis.axvline(1.0, color="black", linewidth=1)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3)
            axis.set_title(_threads(number))
        axes[0].set_yticks(range(len(lines)), lines, fontsize=8)
        axes[0].set_ylim(len(lines) - 0.5, -0.5)
        _legend(figure, axes[0])


@contextmanager
def _figure(path: str, inches: tuple[float, float]) -> Iterator[Any]:
    """A figure that is written to its file at the end of the context."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    yield figure
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise OnnxCbpError(f"'{path}' cannot be written: {error.strerror or error}") from None


def _legend(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 3), fontsize=8)


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _layer(row: Row) -> str:
    return f"{row.shape.name} {'x'.join(map(str, row.shape.dimensions))}"
