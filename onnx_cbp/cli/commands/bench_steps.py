"""`onnx-cbp bench MODEL...`: training steps, original against rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnx_cbp.cli.measuring import milliseconds, progress, say_machine

if TYPE_CHECKING:
    from rich.text import Text

    from onnx_cbp.bench import StepRow, StepSettings
    from onnx_cbp.bench.training_steps.step_results import Memory

_TIMES = ("model", "threads", "original ms", "rewritten ms", "ratio", "spread")
_PARTS = ("model", "threads", "BN ms", "BN share", "step faster by")
_MEMORY = ("model", "threads", "original MB", "rewritten MB", "original, no arena", "rewritten, no arena")


def bench_steps(settings: StepSettings, plot_file: str | None) -> tuple[bool, Mapping[str, Any]]:
    """Measure, print and draw.

    Returns:
        Whether each rewritten step computes what the original does, and all results as a document.
    """
    import onnxruntime

    from onnx_cbp.bench import StepBench, as_document, check_step_model, machine
    from onnx_cbp.bench.plot import draw_steps
    from onnx_cbp.custom_ops.library import get_library_path

    for model in settings.models:  # before the first one is measured
        check_step_model(model)
    bench = StepBench(settings, get_library_path())
    on = machine()
    say_machine(on, f"onnxruntime {onnxruntime.__version__}")
    rows: list[StepRow] = []
    with progress("training steps", len(settings.models) * len(settings.threads)) as done:
        for model in settings.models:
            for row in bench.run(model):
                rows.append(row)
                done()
    _print(rows)
    if plot_file is not None:
        draw_steps(rows, plot_file)
    return all(row.agrees for row in rows), as_document(rows, settings.as_dict(), bench.versions, on)


def _print(rows: Sequence[StepRow]) -> None:
    from onnx_cbp.cli.text import console, say, table

    out = console()
    cut = ("model", out.width)
    for step in dict.fromkeys(row.step for row in rows):
        of_kind = [row for row in rows if row.step == step]
        say(out, f"time of a step ({step}), batch {of_kind[0].batch}")
        out.print(table(_TIMES, [_times(row) for row in of_kind], right=_TIMES[1:], cut=cut))
        say(out, "the part of batch norms and of what is folded into them")
        out.print(table(_PARTS, [_parts(row) for row in of_kind], right=_PARTS[1:], cut=cut))
    say(out, "peak memory of the steps, beyond that of the loaded session")
    out.print(table(_MEMORY, [_memory(row) for row in rows], right=_MEMORY[1:], cut=cut))
    for row in rows:
        if not row.agrees:
            say(out, f"'{row.model}' was not measured: {row.missing}; 'onnx-cbp check' compares all that they compute")


def _times(row: StepRow) -> list[str | Text]:
    from rich.text import Text

    if row.ratio is None:
        return [row.model, str(row.threads), "-", "-", Text("differs", style="bold red"), "-"]
    return [
        row.model,
        str(row.threads),
        milliseconds(row.original.times.median),
        milliseconds(row.rewritten.times.median),
        Text(f"{row.ratio:.3f}", style="green" if row.ratio >= 1 else "yellow"),
        f"{min(row.ratios):.3f} to {max(row.ratios):.3f}",
    ]


def _parts(row: StepRow) -> list[str | Text]:
    before, after = row.original.batch_norm, row.rewritten.batch_norm
    if row.saved is None or before is None or after is None:
        return [row.model, str(row.threads), "-", "-", "-"]
    return [
        row.model,
        str(row.threads),
        f"{milliseconds(before.seconds)} to {milliseconds(after.seconds)}",
        f"{'at least ' if before.unseen else ''}{before.share:.1%}",
        f"{row.saved:.1%}",
    ]


def _memory(row: StepRow) -> list[str | Text]:
    both = (row.original, row.rewritten)
    return [row.model, str(row.threads), *(_megabytes(v.memory) for v in both), *(_megabytes(v.live) for v in both)]


def _megabytes(memory: Memory | None) -> str:
    return "-" if memory is None else f"{memory.of_steps / 1e6:.1f}"
