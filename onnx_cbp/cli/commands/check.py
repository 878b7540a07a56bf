"""`onnx-cbp check`: compares what an original and a rewritten model compute."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import click

from onnx_cbp.cli.document import STDOUT, JsonIsOptional, json_option, write_document
from onnx_cbp.cli.progress import steps

if TYPE_CHECKING:
    from onnx_cbp.checking import Difference, FusionEffects

_TOO_FAR_APART = 1
_ROUNDING = "ok *"
_ROUNDING_NOTE = "* as far as rounding lets one see"


@click.command(cls=JsonIsOptional, short_help="Compare what two models compute.")
@click.argument("model", type=click.Path(readable=False))
@click.argument("out", type=click.Path(readable=False))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="What symbolic dimensions become."
)
@click.option(
    "--rtol",
    type=click.FloatRange(min=0),
    help="Largest relative difference allowed.  [default: 1e-4; 1e-9 for double, 1e-2 for float16]",
)
@click.option(
    "--fusions/--no-fusions",
    default=True,
    help="Also rewrite MODEL with each fusion of OUT on in turn, and show what it does (the default).",
)
@json_option
def check(
    model: str, out: str, seed: int, batch: int, rtol: float | None, fusions: bool, json_file: str | None
) -> None:
    """Run MODEL and its rewritten form OUT on the same random inputs, and compare what they compute.

    Compares every graph output and, in training graphs, what the models write in place: gradients and running
    statistics. A difference is relative to the largest value of the result, or to 1% of the largest gradient (running
    statistic, output) of all where that is more: a gradient that is zero in exact arithmetic is nothing but rounding
    error. A loss is judged alone.

    In a deep network rounding decides whether a ReLU near zero lets a gradient pass. So where something is too far
    apart and --rtol is not given, MODEL is also compared with itself on inputs 16 units in the last place off, and 3
    times that difference is allowed.

    MODEL runs without graph optimisations, which give some batch norms wrong values.

    Batch norms that a rewrite was asked to train or to freeze compute something else: they are named as the reason.

    Running variances that OUT updates by PyTorch's convention are compared without the factor count / (count - 1).

    All is run again with data and weights so small that variances are near epsilon, and a training graph once more
    with its gradients added to those of the step before; what counts is where a result is the farthest off.

    Exit status: 0 within tolerance, 1 too far apart, 2 a model that cannot be read or run.
    """
    from onnx_cbp.checking import FusionEffects, compare, compare_fusions
    from onnx_cbp.checking.convention import NOTE, is_unbiased
    from onnx_cbp.checking.modes import changed_modes
    from onnx_cbp.model_files.model_io import load_model

    if rtol is not None and math.isnan(rtol):
        raise click.BadParameter("nan is no tolerance", param_hint="'--rtol'")
    with steps([f"running {model} and {out}", "fusion by fusion"][: 2 if fusions else 1]) as step:
        next(step)
        if fusions:
            differences, effects = compare_fusions(
                model, out, seed=seed, batch=batch, rtol=rtol, progress=lambda: next(step)
            )
        else:
            differences, effects = compare(model, out, seed=seed, batch=batch, rtol=rtol), FusionEffects([])
    good = all(d.within(rtol) for d in differences)
    blame = None if good else effects.blame(rtol)
    rewritten = load_model(out, external_data=False)
    convention = NOTE if is_unbiased(rewritten) else None
    modes = (effects.modes if fusions else changed_modes(load_model(model), rewritten)).note()
    if json_file is not None:
        from onnx_cbp.cli.fusions import fusions_document

        document = {"original": model, "rewritten": out, "seed": seed, "batch": batch, "within_tolerance": good}
        document["differences"] = [_as_dict(d, rtol) for d in differences]
        document["fusions"] = fusions_document(effects, rtol)
        document["fusions_note"] = effects.note
        document["blame"] = blame
        document["convention"] = convention
        document["modes"] = modes
        write_document(json_file, document)
    if json_file != STDOUT:
        _print(differences, effects, (effects.note, convention, modes, blame), rtol)
    sys.exit(0 if good else _TOO_FAR_APART)


def _as_dict(difference: Difference, rtol: float | None) -> dict[str, Any]:
    return {
        **difference.as_dict(),
        "tolerance": difference.tolerance(rtol),
        "within_tolerance": difference.within(rtol),
    }


def _print(
    differences: list[Difference], effects: FusionEffects, remarks: tuple[str | None, ...], rtol: float | None
) -> None:
    from rich.text import Text

    from onnx_cbp.cli.fusions import FUSIONS_TITLE, fusions_columns, fusions_rows
    from onnx_cbp.cli.text import console, number, printable, say, table

    # Flags only say that an accumulator has run, so flags that agree get no row.
    flags = [d for d in differences if d.dtype == "bool" and d.within(rtol)]
    rows: list[tuple[str, str, str, str, str, Text]] = []
    for d in (d for d in differences if d not in flags):
        verdict = _judged(d, rtol)
        rows.append(
            (
                d.name,
                d.kind,
                number(d.largest),
                number(d.absolute),
                number(d.relative),
                Text(printable(verdict), style="green" if d.within(rtol) else "bold red"),
            )
        )
    headings = ("result", "kind", "largest", "difference", "relative", "")
    out = console()
    if rows:
        right = ("largest", "difference", "relative")
        out.print(table(headings, rows, right=right, cut=("result", out.width)))
    if any(row[-1].plain == _ROUNDING for row in rows):
        say(out, _ROUNDING_NOTE)
    if effects.rows:
        columns = fusions_columns(effects)
        say(out, FUSIONS_TITLE)
        out.print(table(columns, fusions_rows(effects, rtol), right=columns[1:-1]))
    for line in remarks:
        if line is not None:
            say(out, line)
    say(out, _verdict(differences, len(flags), rtol))


def _judged(difference: Difference, rtol: float | None) -> str:
    from onnx_cbp.checking import default_tolerance

    if not difference.within(rtol):
        return difference.problem or "too far apart"
    if difference.within(default_tolerance(difference.dtype)) or rtol is not None:
        return "ok"
    return _ROUNDING


def _verdict(differences: list[Difference], flags: int, rtol: float | None) -> str:
    from onnx_cbp.checking.feeding.input_sets import USUAL
    from onnx_cbp.cli.text import number

    bad = [d for d in differences if not d.within(rtol)]
    if not bad:
        worst = max((d.relative for d in differences), default=0.0)
        noise = max((d.noise for d in differences), default=0.0)
        apart = number(worst)
        if rtol is None and noise:
            apart += f" (rounding moves the original itself by {number(noise)})"
        equal = f", {flags} flags equal" if flags else ""
        count = len(differences) - flags
        results = "1 result" if count == 1 else f"{count} results"
        return f"within tolerance: {results}{equal}, largest relative difference {apart}"
    reasons = [
        f"'{d.name}': {d.problem}"
        if d.problem
        else f"'{d.name}' is {number(d.relative)} off" + (f" ({d.inputs})" if d.inputs != USUAL else "")
        for d in sorted(bad, key=lambda d: -d.relative)
    ]
    more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"not within tolerance: {'; '.join(reasons[:3])}{more}"
