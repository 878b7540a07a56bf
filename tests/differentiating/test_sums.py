"""Sums over many elements in float: no sum is so long that its roundings add up."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes.differentiating import differentiate
from onnx_cbp.graph_passes.differentiating.builder import steps_of_sum
from support.models import parse
from support.ops import session


@pytest.mark.parametrize(
    ("axes", "rank", "steps"),
    [
        ([0, 1], 3, [[1], [0]]),
        ([0, 1, 2], 4, [[2], [1], [0]]),
        ([0, 2, 3], 4, [[0, 2, 3]]),
        ([-1], 3, [[2]]),
        ([0, 1, 2, 3], 4, [[1], [0], [2, 3]]),
        ([0, 1, 2], 3, [[1], [0], [2]]),
        ([0, 1], 2, [[0], [1]]),
        ([0], 1, [[0]]),
        ([], 0, [[]]),
    ],
)
def test_leading_axes_are_summed_one_by_one(axes: list[int], rank: int, steps: list[list[int]]):
    assert steps_of_sum(axes, rank) == steps


@pytest.mark.parametrize(
    ("shape", "small", "at_once"),
    [
        ((64, 512, 8), (8,), (0, 1)),  # a bias of a Linear
        ((64, 512, 8), (1, 1, 8), (0, 1)),
        ((16, 32, 32, 8), (8,), (0, 1, 2)),  # the same, with the channels last
        ((4, 1536, 4, 4), (), (0, 1, 2, 3)),  # one number that scales a branch
        ((4, 1536, 4, 4), (1,), (0, 1, 2, 3)),
    ],
)
def test_a_gradient_that_is_summed_keeps_its_digits(shape: tuple[int, ...], small: tuple[int, ...], at_once):
    """Onnxruntime's own sum over the same axes at once is at least twice as far off, which shows the reason."""
    kept = [1 if axis in at_once else size for axis, size in enumerate(shape)]
    sizes, of_sum = (", ".join(map(str, each)) for each in (("N", *shape[1:]), kept))
    of_small = f"float[{', '.join(map(str, small))}]" if small else "float"
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    agraph (float[{sizes}] X, {of_small} b) => (float[{sizes}] Y, float[{of_sum}] whole)
    <int64[{len(at_once)}] axes = {{{", ".join(map(str, at_once))}}}>
    {{ Y = Add (X, b)  whole = ReduceSum (X, axes) }}"""
    model = ir.from_proto(parse(text))
    X, b = model.graph.inputs
    (db,) = differentiate(model, {model.graph.outputs[0]: X}, [b])
    model.graph.outputs.append(db)
    run = session(ir.to_proto(model), None)
    errors = []
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        _, whole, got = run.run(None, {"X": x, "b": np.zeros(small, np.float32)})
        assert got.shape == small
        want = x.astype(np.float64).sum(at_once)
        rounded = [np.abs(each.reshape(want.shape) - want).max() for each in (got, whole)]
        errors.append(np.array(rounded) / np.sqrt(x.size / want.size))
    ours, theirs = np.mean(errors, axis=0)
    assert ours < 1e-6
    assert theirs > 2 * ours
