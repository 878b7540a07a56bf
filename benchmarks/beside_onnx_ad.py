"""Our gradient rules and those of onnx-ad beside one another, on the cases of the tests. Needs `pip install onnx-ad`.

Prints each case in which the two differ, or in which onnx-ad has none, and who is right by differences of the op in
double; then the counts. Ends with 1 where a gradient of ours is wrong.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx_ad
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.gradients.gradient_cases import CASES, Case, In, with_fixed_sizes
from support.gradients.gradient_driver import (
    Arrays,
    differences,
    directions,
    feeds_of,
    forward_model,
    newest_opset,
    runner,
    with_gradients,
)

_EQUAL = 1e-7


def main() -> int:
    """Compare all cases."""
    counts: collections.Counter[str] = collections.Counter()
    newest = newest_opset()
    for case in CASES:
        if case.domain or case.since > newest:
            continue
        case = dataclasses.replace(with_fixed_sizes(case), since=max(case.since, min(18, case.until)))
        verdict, detail = compare(case)
        counts[verdict] += 1
        if detail:
            print(f"{verdict}: {case}: {detail}", flush=True)
    print(f"onnx-ad {onnx_ad.__version__ if hasattr(onnx_ad, '__version__') else ''}: {dict(counts)}")
    return int(counts["ours is wrong"] > 0)


def compare(case: Case) -> tuple[str, str]:
    """What comes out for one case, and why."""
    names = [f"x{index}" for index, each in enumerate(case.inputs) if isinstance(each, In) and each.gradient]
    forward = forward_model(case, case.since)
    run = runner(forward, "reference", keeps_float=not case.single)
    feeds = feeds_of(case, 2, seed=5)
    rng = np.random.default_rng(5)
    outputs = run(feeds)
    seeds = {f"dy{i}": rng.uniform(0.5, 1.5, outputs[i].shape).astype(outputs[i].dtype) for i in case.seeded}
    own = runner(with_gradients(forward, case.seeded, names), "reference", keeps_float=not case.single)
    ours = dict(zip(names, own({**feeds, **seeds}), strict=True))
    try:
        theirs = by_onnx_ad(case, names, feeds, seeds)
    except Exception as error:  # it raises whatever it likes
        return "onnx-ad has none", f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
    if all(_far(theirs[name], ours[name]) <= (_EQUAL if theirs[name].dtype == np.float64 else 1e-5) for name in names):
        return "equal", ""
    wrong = []
    for name in names:
        want = differences(run, feeds, seeds, name)
        for whose, found in (("ours", ours[name]), ("onnx-ad's", theirs[name])):
            if found.shape != feeds[name].shape:
                wrong.append(f"{whose} by {name} has shape {found.shape}")
                continue
            along = np.array([(found * direction).sum() for direction in directions(found.shape)])
            error = np.abs(along - want).max() / max(1.0, np.abs(want).max())
            if not error <= (1e-6 if found.dtype == np.float64 else 2e-5):
                wrong.append(f"{whose} by {name} is {error:.1g} off")
    if not wrong:  # both are within rounding
        return "equal", ""
    return ("ours is wrong" if any(each.startswith("ours") for each in wrong) else "onnx-ad's is wrong"), "; ".join(
        wrong
    )


def by_onnx_ad(case: Case, names: list[str], feeds: Arrays, seeds: Arrays) -> Arrays:
    """The gradients that onnx-ad's adjoint model gives, with one seed."""
    for dtype in (np.float64, np.float32):
        made = forward_model(case, case.since, dtype)
        adjoint = onnx_ad.reverse(made, inputs=names, outputs=[f"y{i}" for i in case.seeded], layout="onnx")
        try:
            run = runner(adjoint, "onnxruntime")
        except ort_errors.NotImplemented:  # it has the op in no double
            continue
        read = {value.name for value in adjoint.graph.input}
        given = {**feeds, **{f"adj_y{name[2:]}": value[..., None] for name, value in seeds.items()}}
        given = {n: v.astype(dtype) if v.dtype == np.float64 else v for n, v in given.items() if n in read}
        results = dict(zip((value.name for value in adjoint.graph.output), run(given), strict=True))
        return {name: results[f"adj_{name}"][..., 0] for name in names}
    raise NotImplementedError("ONNX Runtime has no kernel for what it is made of")


def _far(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return np.inf
    return float(np.abs(one - other).max(initial=0) / max(1.0, np.abs(other).max(initial=0)))


if __name__ == "__main__":
    sys.exit(main())
