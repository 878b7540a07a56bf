"""Finalized models, and portable graphs that train, on runtimes that have never heard of this project."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from deployment.arrays import read_arrays

from support.ops import session
from support.training import MODELS as SAMPLES

FOLDER = os.environ.get("ONNX_CBP_DEPLOYMENT")
OPENVINO = os.environ.get("ONNX_CBP_OPENVINO")
WEB = os.environ.get("ONNX_CBP_WEB")
MODELS = sorted(Path(FOLDER).glob("*.onnx")) if FOLDER else []
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not MODELS, reason="ONNX_CBP_DEPLOYMENT names no folder of models that write.py wrote; nox sets it"
)
needs_openvino = pytest.mark.skipif(
    not OPENVINO, reason="ONNX_CBP_OPENVINO names no Python with onnxruntime-openvino: pip could not install it"
)
needs_web = pytest.mark.skipif(
    not WEB,
    reason="ONNX_CBP_WEB names no folder with onnxruntime-web: there is no node or npm, or it could not get it",
)


def _compare(model: Path, results: dict[str, np.ndarray]) -> None:
    _, want = read_arrays(model.with_suffix(".json"))
    assert list(results) == list(want)
    for name, expected in want.items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def _results(command: list[str], model: Path, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """What another process makes of a model, and what it prints."""
    out = folder / "results.json"
    arguments = [str(model), str(model.with_suffix(".json")), str(out)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return read_arrays(out)[1], done.stdout


def test_every_sample_model_is_there():
    samples = {path.parent.name for path in SAMPLES.glob("*/eval_model.onnx")}
    assert {path.stem for path in MODELS} == samples | {"portable_forward", "portable_gradients"}


@pytest.mark.parametrize("model", [p for p in MODELS if "portable" not in p.stem], ids=lambda path: path.stem)
def test_finalized_models_are_onnx_and_no_more(model):
    proto = onnx.load(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {opset.domain for opset in proto.opset_import} == {""}
    assert not proto.functions
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}, "all of them fold"


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_onnxruntime_without_the_library(model):
    feeds, want = read_arrays(model.with_suffix(".json"))
    outputs = session(onnx.load(model), None).run(list(want), feeds)
    _compare(model, dict(zip(want, outputs, strict=True)))


@needs_openvino
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_openvino(model, tmp_path):
    provider = "OpenVINOExecutionProvider"
    results, printed = _results([str(OPENVINO), str(HERE / "run_provider.py"), provider], model, tmp_path)
    _compare(model, results)
    ran = json.loads(printed.splitlines()[-1])
    assert set(ran) == {provider}, f"ran by {ran}"
    assert ran[provider] > 0


@needs_web
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_web(model, tmp_path):
    results, _ = _results(["node", str(HERE / "run_web.mjs"), str(WEB)], model, tmp_path)
    _compare(model, results)
