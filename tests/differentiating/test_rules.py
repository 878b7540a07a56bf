"""Every gradient rule against differences of its op in double, for sizes of the batch that were never traced."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from onnx_cbp.graph_passes.differentiating.registry import registered
from support.gradients.gradient_cases import CASES, Case, In
from support.gradients.gradient_driver import (
    differences,
    directions,
    feeds_of,
    forward_model,
    newest_opset,
    runner,
    with_gradients,
)

NEWEST = newest_opset()


def _runs() -> list[tuple[Case, int]]:
    """Each case at its oldest opset, and the first of each op at the newest as well."""
    runs, seen = [], set()
    for case in CASES:
        oldest, newest = case.since, min(case.until, NEWEST)
        if oldest <= newest:
            runs.append((case, oldest))
        if oldest < newest and (case.op, case.domain, case.until) not in seen:
            runs.append((case, newest))
            seen.add((case.op, case.domain, case.until))
    return runs


RUNS = _runs()


@pytest.mark.parametrize(("case", "opset"), RUNS, ids=[f"{case} opset={opset}" for case, opset in RUNS])
def test_a_rule_equals_differences(case: Case, opset: int):
    forward = forward_model(case, opset)
    names = [f"x{index}" for index, each in enumerate(case.inputs) if isinstance(each, In) and each.gradient]
    model = with_gradients(forward, case.seeded, names)
    run, differentiated = (runner(each, "reference", keeps_float=not case.single) for each in (forward, model))
    on_onnxruntime = _onnxruntime(case, opset, names, model)
    for batch in (2, 3) if _is_symbolic(case) else (2,):
        feeds = feeds_of(case, batch, seed=batch)
        outputs = run(feeds)
        rng = np.random.default_rng(batch)
        seeds = {f"dy{i}": rng.uniform(0.5, 1.5, outputs[i].shape).astype(outputs[i].dtype) for i in case.seeded}
        got = differentiated({**feeds, **seeds})
        tolerance = 1e-6 if case.single else 1e-7  # attributes are rounded
        rounds = any(each.dtype == np.float32 for each in seeds.values())
        for name, gradient in zip(names, got, strict=True):
            assert gradient.shape == feeds[name].shape
            assert gradient.dtype == feeds[name].dtype
            if rounds:  # differences of what is rounded say nothing: the gradient is that of the identity
                np.testing.assert_array_equal(gradient, seeds["dy0"])
                continue
            glance = batch > 2  # what is wrong with a batch of another size alone is so in every direction
            want = differences(run, feeds, seeds, name, glance=glance)
            along = directions(gradient.shape, glance=glance)
            gradient = np.array([(gradient * direction).sum() for direction in along])
            np.testing.assert_allclose(gradient, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max()))
        if on_onnxruntime is not None:
            on_onnxruntime({**feeds, **seeds}, got)


def _is_symbolic(case: Case) -> bool:
    return any(isinstance(size, str) for each in case.inputs if isinstance(each, In) for size in each.shape)


def _onnxruntime(case: Case, opset: int, names: list[str], model: onnx.ModelProto) -> Callable[..., None] | None:
    """Holds what ONNX Runtime computes against given results; in float where it has an op in no other type."""
    for dtype, tolerance in ((np.float64, 2e-7), (np.float32, 2e-5))[case.single :]:
        if dtype == np.float32:
            model = with_gradients(forward_model(case, opset, dtype), case.seeded, names)
        try:
            run = runner(model, "onnxruntime")
        except ort_errors.NotImplemented:
            continue

        def hold(feeds: dict, want: list[np.ndarray], run=run, dtype=dtype, tolerance=tolerance) -> None:
            wide = {name for name, value in feeds.items() if value.dtype == np.float64}
            results = run({name: value.astype(dtype) if name in wide else value for name, value in feeds.items()})
            for got, expected in zip(results, want, strict=True):
                assert got.shape == expected.shape
                np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))

        return hold
    with pytest.raises(ort_errors.NotImplemented):  # of the op itself
        runner(forward_model(case, opset, np.float32), "onnxruntime")
    return None


@pytest.mark.parametrize("case", [case for case in CASES if not case.domain], ids=str)
def test_gradients_have_the_types_of_their_values(case: Case):
    """In float16, where constants of another type, or a step that is done in float, would not fit."""
    if case.since > NEWEST:
        pytest.skip(f"opset {case.since} is newer than the installed onnx or ONNX Runtime")
    try:
        forward = forward_model(case, case.since, np.float16)
        onnx.checker.check_model(forward, full_check=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        pytest.skip("the op takes no float16")
    names = [f"x{index}" for index, each in enumerate(case.inputs) if isinstance(each, In) and each.gradient]
    model = with_gradients(forward, case.seeded, names)  # checks it
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert all(types[f"{name}_grad"] == types[name] for name in names)


#: Gradients of gradients of ours, which are made of ChannelBackpropStatsGrad: that one has no gradient.
_SECOND = ("BatchNormGrad", "BatchNormReluGrad", "BatchNormRecomputeReluGrad", "ChannelBackpropStats")
_FIRSTS = {case.op: case for case in reversed(CASES) if case.op not in _SECOND and case.since <= NEWEST}


@pytest.mark.parametrize("case", _FIRSTS.values(), ids=str)
def test_a_gradient_is_differentiated_again(case: Case):
    """The gradient of <v, gradient>, by what the op reads and by its own gradient, equals differences."""
    first = forward_model(case, max(case.since, min(16, case.until)))
    names = [f"x{index}" for index, each in enumerate(case.inputs) if isinstance(each, In) and each.gradient]
    once = with_gradients(first, case.seeded, names)
    by = [*names, *(f"dy{index}" for index in case.seeded)]
    twice = with_gradients(once, tuple(range(len(names))), by, seed="v", some_are_zero=True)
    run, again = (runner(each, "reference", keeps_float=not case.single) for each in (once, twice))
    feeds = feeds_of(case, 2, seed=2)
    rng = np.random.default_rng(2)
    for index, Y in enumerate(runner(first, "reference", keeps_float=not case.single)(feeds)):
        if index in case.seeded:
            feeds[f"dy{index}"] = rng.uniform(0.5, 1.5, Y.shape)
    cotangents = {f"v{index}": rng.uniform(0.5, 1.5, each.shape) for index, each in enumerate(run(feeds))}
    got = dict(zip((value.name for value in twice.graph.output), again({**feeds, **cotangents}), strict=True))
    for name in by:
        want = differences(run, feeds, cotangents, name)
        gradient = got.get(f"{name}_grad_v", np.zeros_like(feeds[name]))
        along = np.array([(gradient * direction).sum() for direction in directions(gradient.shape)])
        np.testing.assert_allclose(along, want, rtol=0, atol=1e-5 * max(1.0, np.abs(want).max()))


def test_every_rule_has_cases():
    cases = [(case.domain, case.op) for case in CASES]
    # That of training graphs is registered with them, and their tests train with it.
    own = ("com.microsoft", "BatchNormInternal")
    lonely = {key for key in registered() if cases.count(key) < 2} - {own}
    assert not lonely
