"""Small networks in every form that exporters write batch norms in, against the frameworks they came from.

The scripts in `models/exporters` made the files in `models/exporters/networks` and what the frameworks themselves
compute, in double (`expected.py` there says what is in the .npz files). Batches have sizes that were never traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_cbp import OnnxCbpError, distributed, finalize, inspect, rewrite
from onnx_cbp.training.optimizers import SGD
from support.models import op_types
from support.ops import session
from support.stepping import Training
from support.training import MODELS

FOLDER = MODELS / "exporters" / "networks"
BATCH_NORMS = {"image": 3, "signal": 2, "volume": 2}


@dataclass(frozen=True)
class Form:
    """How an exporter writes batch norms.

    Attributes:
        seen: what `inspect` calls each.
        trains: they train by themselves.
        statistics: the file has running statistics.
        unbiased: the framework's running variance is the unbiased one.
    """

    seen: str
    trains: bool = False
    statistics: bool = True
    unbiased: bool = False


TRAINS = Form("training_mode = 1", trains=True)
FROZEN = Form("inference form")
FORMS = {
    "torch_legacy_training": Form("training_mode = 1", trains=True, unbiased=True),
    "torch_legacy_eval_unfolded": Form("inference form", unbiased=True),
    "torch_default_training": Form("inference form", unbiased=True),
    "torch_default_eval": Form("inference form", unbiased=True),
    "keras_training": Form("arithmetic (batch statistics)", trains=True, statistics=False),
    "paddle_training": FROZEN,
    "paddle_batch_statistics": TRAINS,
    "jax_training": FROZEN,
}
FOLDED = {
    "keras_inference": "with training=True keeps it",
    "torch_legacy_eval": "has probably folded a batch norm into it",
    "torch_default_training_optimized": "folded a batch norm into it, so none is left to train",
    "torch_default_eval_optimized": "folded a batch norm into it, so none is left to train",
}


#: Of a Conv3d without a bias PyTorch's default exporter writes one of shape [0], which the newer ONNX Runtimes do
#: not run, and jax2onnx says shapes that are not so: neither is in what comes of it.
MENDED = ("torch_default_training_volume", "torch_default_eval_volume", "jax_")
#: Batch norms that are not folded: paddle2onnx writes a convolution of signals as one of images, and a Squeeze behind.
NOT_FOLDED = {
    "keras_inference": "with training=True keeps it",
    "paddle_training_signal": 2,
    "paddle_batch_statistics_signal": 2,
}


@dataclass(frozen=True)
class File:
    """A file of an exporter."""

    form: str
    network: str

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.form}_{self.network}.onnx"

    @property
    def kind(self) -> Form:
        return FORMS[self.form]

    def load(self) -> onnx.ModelProto:
        model = onnx.load(self.path)
        model.ir_version = min(model.ir_version, 9)  # the oldest ONNX Runtime under test reads no newer one
        return model

    def expected(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz")) as arrays:
            return dict(arrays)


FILES = [File(*path.stem.rsplit("_", 1)) for path in sorted(FOLDER.glob("*.onnx"))]
TRAINABLE = [file for file in FILES if file.form in FORMS]


def under(expected: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}


def run(model: onnx.ModelProto, x: np.ndarray, backend: str | None = None) -> np.ndarray:
    return session(model, backend).run(None, {model.graph.input[0].name: x})[0]


def close(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def close_gradients(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """Within 1e-5 of a tensor's largest; of the largest of all for what is zero but for rounding."""
    assert set(got) == set(want)
    largest = max(np.abs(value).max() for value in want.values())
    for name, value in want.items():
        scale = np.abs(value).max()
        scale = largest if scale < 1e-6 * largest else scale
        error = np.abs(got[name] - value).max()
        assert error <= 1e-5 * scale, (name, error / scale)


each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.path.stem)
each_trainable = pytest.mark.parametrize("file", TRAINABLE, ids=lambda file: file.path.stem)


def test_every_form_has_every_network():
    assert {file.form for file in FILES} == {*FORMS, *FOLDED}
    assert len(FILES) == 3 * (len(FORMS) + len(FOLDED))


@each_trainable
def test_inspect_sees_every_batch_norm(file):
    found = inspect(file.load())
    assert len(found) == BATCH_NORMS[file.network]
    for each in found:
        assert file.kind.seen in each.form
        assert each.rewritten == file.kind.trains
        assert ("--train" in each.explanation) == (not file.kind.trains)


@each_trainable
def test_rewritten_it_computes_what_the_framework_does(file):
    model, expected = file.load(), file.expected()
    options: dict[str, Any] = {} if file.kind.trains else {"train": "*"}
    rewritten = rewrite(model, **options)
    onnx.checker.check_model(rewritten, full_check=True)
    assert sum(kind.startswith("BatchNorm") for kind in op_types(rewritten)) == BATCH_NORMS[file.network]
    assert "BatchNormalization" not in op_types(rewritten)
    if not file.kind.trains:
        same = rewrite(model)
        assert (same == model) == (not file.path.stem.startswith(MENDED))
        close(run(same, expected["x"]), expected["eval/output"])
    close(run(rewritten, expected["x"], "auto"), expected["train/output"])


@each_file
def test_a_model_for_inference(file):
    model, expected = file.load(), file.expected()
    if not FORMS.get(file.form, FROZEN).statistics:
        with pytest.raises(OnnxCbpError, match=r"it has no running statistics.*--keep-batch-statistics"):
            finalize(model)
        return
    finished = finalize(model)
    onnx.checker.check_model(finished, full_check=True)
    left = [kind for kind in op_types(finished) if kind.startswith("BatchNorm")]
    assert left == ["BatchNormalization"] * NOT_FOLDED.get(file.path.stem, 0)
    close(run(finished, expected["x"]), expected["eval/output"])


@each_trainable
def test_a_step_of_training(file, tmp_path):
    expected, kind = file.expected(), file.kind
    options: dict[str, Any] = {"rewrite_options": {"unbiased_running_var": kind.unbiased and kind.statistics}}
    options |= {} if kind.trains else {"train_batch_norms": "*"}
    trained = Training(file.load(), tmp_path, optimizer=SGD(), **options)
    loss, gradients = trained.gradients(expected["x"], expected["labels"])
    assert loss == pytest.approx(expected["train/loss"], rel=1e-6)
    close_gradients(gradients, under(expected, "train/gradient/"))
    statistics = under(expected, "train/running/")
    assert bool(statistics) == kind.statistics
    values = trained.values()
    for name, value in statistics.items():
        close(values[name], value)


@pytest.mark.parametrize("file", [file for file in TRAINABLE if not file.kind.trains], ids=lambda file: file.path.stem)
def test_a_step_with_frozen_batch_norms(file, tmp_path):
    expected = file.expected()
    trained = Training(file.load(), tmp_path, optimizer=SGD(), train_batch_norms=[])
    loss, gradients = trained.gradients(expected["x"], expected["labels"])
    assert loss == pytest.approx(expected["frozen/loss"], rel=1e-6)
    close_gradients(gradients, under(expected, "frozen/gradient/"))


@pytest.mark.native
@pytest.mark.parametrize(
    "file",  # one network is enough where all have the same op
    [file for file in TRAINABLE if file.network == "image" or not file.kind.statistics],
    ids=lambda file: file.path.stem,
)
def test_two_replicas_are_one_batch(file, tmp_path):
    expected, kind = file.expected(), file.kind
    options: dict[str, Any] = {} if kind.trains else {"train_batch_norms": "*"}
    Training(
        file.load(), tmp_path, optimizer=SGD(), rewrite_options={"synchronize": True, "data_parallel": True}, **options
    )

    def replicate() -> tuple[float, dict[str, np.ndarray]]:
        shard = slice(0, 2) if distributed.rank() == 0 else slice(2, None)
        return Training.at(tmp_path).gradients(expected["x"][shard], expected["labels"][shard])

    for loss, gradients in distributed.run_replicas(replicate, 2, timeout=30):
        assert loss == pytest.approx(expected["train/loss"], rel=1e-6)
        close_gradients(gradients, under(expected, "train/gradient/"))


@pytest.mark.parametrize("file", [f for f in FILES if f.form in FOLDED], ids=lambda file: file.path.stem)
def test_folded_batch_norms_are_named(file, tmp_path, caplog):
    found = inspect(file.load())
    assert len(found) == BATCH_NORMS[file.network]
    assert any(FOLDED[file.form] in each.explanation for each in found)
    Training(file.load(), tmp_path)
    assert "folded" in caplog.text
