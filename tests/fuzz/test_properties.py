"""What must hold for every valid model, tried on random ones; each test prints the seeds it had in its name."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_cbp
from fuzz.graphs import feeds, valid_model
from onnx_cbp.ir_models import to_ir, to_proto

#: Each test tries this many models of a group.
_OF_A_GROUP = 6
GROUPS = range(5)
_TOLERANCE = {np.dtype(np.float32): 2e-4, np.dtype(np.float64): 1e-9}


def models(group):
    """Models with inputs for them, by seed."""
    for seed in range(group * _OF_A_GROUP, (group + 1) * _OF_A_GROUP):
        rng = np.random.default_rng(seed)
        model = valid_model(rng)
        data = feeds(model, rng, samples=5)
        assert data is not None
        yield seed, model, data


def run(model, data, threads=1):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    onnx_cbp.register(options)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, data)


def assert_close(seed, got, want, factor=1.0):
    for have, wanted in zip(got, want, strict=True):
        tolerance = factor * _TOLERANCE[wanted.dtype] * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(have, wanted, rtol=0, atol=tolerance, err_msg=f"seed {seed}")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("options", [{}, {"one_pass": False}, {"portable": True}], ids=str)
def test_rewriting_keeps_every_output(group, options):
    for seed, model, data in models(group):
        try:
            rewritten = onnx_cbp.rewrite(model, **options)
        except onnx_cbp.OnnxCbpError as error:
            if "need opset 15" in str(error) or "needs opset" in str(error) or "bodies" in str(error):
                continue  # portable, of an opset that function bodies do not serve
            raise
        assert [value.name for value in rewritten.graph.output] == [value.name for value in model.graph.output]
        assert_close(seed, run(rewritten, data), run(model, data))


@pytest.mark.parametrize("group", GROUPS)
def test_twice_is_once(group):
    for seed, model, _ in models(group):
        once = onnx_cbp.rewrite(model)
        assert onnx_cbp.rewrite(once) == once, f"seed {seed}"
        try:
            finalized = onnx_cbp.finalize(model)
        except onnx_cbp.OnnxCbpError:
            continue  # it has no running statistics
        assert onnx_cbp.finalize(finalized) == finalized, f"seed {seed}"


@pytest.mark.parametrize("group", GROUPS)
def test_reading_and_writing_change_nothing(group, tmp_path):
    for seed, model, data in models(group):
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        assert onnx_cbp.rewrite(path) == onnx_cbp.rewrite(model), f"seed {seed}"
        assert onnx_cbp.inspect(path) == onnx_cbp.inspect(model), f"seed {seed}"
        same = to_proto(to_ir(model), model)
        for have, want in zip(run(same, data), run(model, data), strict=True):
            np.testing.assert_array_equal(have, want, err_msg=f"seed {seed}")


@pytest.mark.parametrize("group", GROUPS)
def test_results_do_not_depend_on_the_number_of_threads(group):
    """Of the batch norms: ONNX Runtime's own ops may add up in another order."""
    for seed, model, data in models(group):
        rewritten = onnx_cbp.rewrite(model)
        only_ours = not any(n.op_type in ("Conv", "Gemm", "ReduceMean") for n in rewritten.graph.node)
        one, three = run(rewritten, data), run(rewritten, data, threads=3)
        if only_ours:
            for have, want in zip(three, one, strict=True):
                np.testing.assert_array_equal(have, want, err_msg=f"seed {seed}")
        else:
            assert_close(seed, three, one)


@pytest.mark.parametrize("group", GROUPS)
def test_permuted_samples_permute_y_and_leave_statistics(group):
    for seed, model, data in models(group):
        rewritten = onnx_cbp.rewrite(model)
        order = np.random.default_rng(seed).permutation(5)
        permuted = {name: value[order] for name, value in data.items()}
        (first, *statistics), (y, *others) = run(rewritten, data), run(rewritten, permuted)
        assert_close(seed, [y], [first[order]])
        assert_close(seed, others, statistics)
