"""One picture of all ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx_cbp.bench.results import Row
from onnx_cbp.bench.step_results import StepRow
from onnx_cbp.errors import OnnxCbpError

_NEEDED = "a plot needs matplotlib: pip install matplotlib"


def check_plot(path: str) -> None:
    """Find out before the run whether a plot can be drawn after it.

    Raises:
        OnnxCbpError: matplotlib is missing, or does not know the file's ending.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise OnnxCbpError(_NEEDED) from None
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in FigureCanvasAgg.get_supported_filetypes():
        raise OnnxCbpError(f"'{path}' cannot be drawn: name a file that ends in .png, .svg or .pdf")


def draw(rows: Sequence[Row], path: str) -> None:
    """A dot for each peer, a line for each kernel and shape, a column for each number of threads."""
    lines = list(dict.fromkeys(_label(row) for row in rows if any(p.times.rounds for p in row.peers)))
    columns = list(dict.fromkeys(p.column for row in rows for p in row.peers if p.times.rounds))
    with _figure(path, lines, [row.threads for row in rows]) as panels:
        for number, axis in panels:
            for index, column in enumerate(columns):
                dots = [
                    (ratio, lines.index(_label(row)))
                    for row in rows
                    for peer in row.peers
                    if row.threads == number and peer.column == column and (ratio := row.ratio(peer)) is not None
                ]
                axis.scatter(
                    [x for x, _ in dots], [y for _, y in dots], s=26, color=f"C{index}", label=column, zorder=3
                )
            axis.set_xscale("log", base=2)
            axis.set_xlabel("peer's time / ours (right of 1: ours is faster)")


def draw_steps(rows: Sequence[StepRow], path: str) -> None:
    """A dot for each training step with the spread of its rounds, and how far it could come without batch norms."""
    measured = [row for row in rows if row.ratio is not None]
    lines = list(dict.fromkeys(row.model for row in measured))
    with _figure(path, lines, [row.threads for row in rows]) as panels:
        for number, axis in panels:
            of_panel = [row for row in measured if row.threads == number]
            ys = [lines.index(row.model) for row in of_panel]
            axis.hlines(ys, [min(r.ratios) for r in of_panel], [max(r.ratios) for r in of_panel], color="C0", alpha=0.5)
            axis.scatter([row.ratio for row in of_panel], ys, s=36, color="C0", label="median", zorder=3)
            bounds = [(1 / (1 - b.share), y) for r, y in zip(of_panel, ys, strict=True) if (b := r.original.batch_norm)]
            label = "if batch norms took no time"
            axis.scatter([x for x, _ in bounds], [y for _, y in bounds], s=60, marker="|", color="C1", label=label)
            axis.set_xlabel("original's step / rewritten's (right of 1: rewritten is faster)")


@contextmanager
def _figure(path: str, lines: Sequence[str], threads: Sequence[int]) -> Iterator[list[tuple[int, Any]]]:
    """A panel for each number of threads, all with the same lines; written when it is drawn."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter

    numbers = sorted(set(threads))
    figure = Figure(figsize=(3 + 4.5 * len(numbers), 1.8 + 0.22 * len(lines)), layout="constrained")
    axes = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
    yield list(zip(numbers, axes, strict=True))
    for number, axis in zip(numbers, axes, strict=True):
        axis.axvline(1.0, color="black", linewidth=1)
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.grid(alpha=0.3)
        axis.set_title("1 thread" if number == 1 else f"{number} threads")
    axes[0].set_yticks(range(len(lines)), lines, fontsize=8)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 3))
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise OnnxCbpError(f"'{path}' cannot be written: {error.strerror or error}") from None


def _label(row: Row) -> str:
    return f"{row.op}  {row.set_name} {row.shape.name}"
