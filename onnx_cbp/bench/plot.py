"""One picture of all ratios."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx_cbp.bench.results import Row
from onnx_cbp.errors import OnnxCbpError

_NEEDED = "a plot needs matplotlib: pip install 'onnx-cbp[demo]'"


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
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter

    threads = sorted({row.threads for row in rows})
    lines = list(dict.fromkeys(_label(row) for row in rows if any(p.times.rounds for p in row.peers)))
    columns = list(dict.fromkeys(p.column for row in rows for p in row.peers if p.times.rounds))
    figure = Figure(figsize=(3 + 4.5 * len(threads), 1.8 + 0.22 * len(lines)), layout="constrained")
    axes = figure.subplots(1, len(threads), sharey=True, squeeze=False)[0]
    for number, axis in zip(threads, axes, strict=True):
        for index, column in enumerate(columns):
            dots = [
                (ratio, lines.index(_label(row)))
                for row in rows
                for peer in row.peers
                if row.threads == number and peer.column == column and (ratio := row.ratio(peer)) is not None
            ]
            axis.scatter([x for x, _ in dots], [y for _, y in dots], s=26, color=f"C{index}", label=column, zorder=3)
        axis.axvline(1.0, color="black", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.grid(alpha=0.3)
        axis.set_title("1 thread" if number == 1 else f"{number} threads")
        axis.set_xlabel("peer's time / ours (right of 1: ours is faster)")
    axes[0].set_yticks(range(len(lines)), lines, fontsize=8)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    if columns:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(columns), 3))
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise OnnxCbpError(f"'{path}' cannot be written: {error.strerror or error}") from None


def _label(row: Row) -> str:
    return f"{row.op}  {row.set_name} {row.shape.name}"
