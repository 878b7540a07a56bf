"""What tf2onnx writes of batch norms in training mode: `models/exporters/keras_tf2onnx.py` made the files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError, distributed, finalize, inspect, rewrite
from support.models import op_types
from support.ops import session
from support.training import MODELS

FOLDER = MODELS / "exporters" / "keras_layers"
FILES = sorted(path for path in FOLDER.glob("keras_tf2onnx_*.onnx") if "layer_norm" not in path.name)
SAMPLES = 6


def batch(model: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    """Samples each with a mean of its own."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    means = np.arange(SAMPLES).reshape(-1, *[1] * len(dims))
    return (np.random.default_rng(seed).normal(size=(SAMPLES, *dims)) + means).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray, backend: str | None = None) -> np.ndarray:
    return session(model, backend).run(None, {model.graph.input[0].name: x})[0]


def test_the_files_are_there():
    assert len(FILES) == 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_batch_norm_is_seen_and_rewritten(path):
    model = onnx.load(path)
    (found,) = inspect(model)
    assert found.rewritten
    assert "batch statistics" in found.explanation
    rewritten = rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert "BatchNormTrain" in op_types(rewritten)
    assert not any(kind.startswith("Reduce") for kind in op_types(rewritten))
    x = batch(model)
    np.testing.assert_allclose(run(rewritten, x, "auto"), run(model, x), rtol=1e-4, atol=1e-4)
    assert rewrite(rewritten) == rewritten


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_replicas_equal_the_whole_batch(path):
    model = onnx.load(path)
    x = batch(model, 1)
    want = run(model, x)
    together = rewrite(model, synchronize=True)
    shards = (slice(0, 2), slice(2, SAMPLES))
    got = distributed.run_replicas(lambda: run(together, x[shards[distributed.rank()]], "auto"), 2, timeout=30)
    np.testing.assert_allclose(np.concatenate(got), want, rtol=1e-4, atol=1e-4)
    alone = np.concatenate([run(model, x[shard]) for shard in shards])
    assert abs(alone - want).max() > 1e-2, "each by itself is far off"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_model_for_inference_takes_statistics_of_the_batch_only_where_that_is_asked_for(path, caplog):
    """Keras has moving averages, and the file has not: it was exported as it trains."""
    model = onnx.load(path)
    with pytest.raises(OnnxCbpError, match=r"it has no running statistics.*--keep-batch-statistics"):
        finalize(model)
    finished = finalize(model, keep_batch_statistics=True)
    assert "batch norms without running statistics take those of the batch" in caplog.text
    x = batch(model)
    np.testing.assert_allclose(run(finished, x), run(model, x), rtol=1e-4, atol=1e-4)
    with pytest.raises(OnnxCbpError, match="no batch norm with running statistics"):
        onnx_cbp.update_bn(path, [x])


def test_a_layer_norm_in_its_form_is_none():
    path = FOLDER / "keras_tf2onnx_layer_norm.onnx"
    model = onnx.load(path)
    assert "BatchNormalization" in op_types(model)
    assert inspect(model) == []
    assert rewrite(model) == rewrite(model, synchronize=True) == model
    x = batch(model)
    np.testing.assert_allclose(run(finalize(model), x), run(model, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(model, x[:2]), run(model, x)[:2], rtol=1e-5, atol=1e-5)
