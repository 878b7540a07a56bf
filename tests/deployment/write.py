"""Writes models as they are deployed, with inputs and the results, in float64, that they must give anywhere.

Needs the training build, for the checkpoints:

python tests/deployment/write.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from arrays import write_arrays  # noqa: E402

import onnx_cbp  # noqa: E402
from onnx_cbp.training import load_api  # noqa: E402
from support.gradients.in_double import in_double  # noqa: E402
from support.models import FORWARD, TRAINING, parse  # noqa: E402

MODELS = TESTS.parent / "models"
#: Vectors of channels, along x.
COLUMN = (slice(None), None, None)


def main(folder: Path) -> None:
    """Write every sample model finalized, and two portable graphs that train, as NAME.onnx and NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for artifacts in sorted(path.parent for path in MODELS.glob("*/eval_model.onnx")):
        _finalized(artifacts, folder / artifacts.name)
    _portable_forward(folder / "portable_forward")
    _portable_gradients(folder / "portable_gradients")


def _finalized(artifacts: Path, stem: Path) -> None:
    checkpoint = artifacts / "checkpoint"
    final = onnx_cbp.finalize(artifacts / "training_model.onnx", checkpoint=checkpoint)
    onnx.save(final, stem.with_suffix(".onnx"))
    evaluation = onnx.load(artifacts / "eval_model.onnx")
    state = load_api().CheckpointState.load_checkpoint(str(checkpoint))
    feeds = {name: np.array(parameter.data) for name, parameter in state.parameters}
    rng = np.random.default_rng(0)
    for value in evaluation.graph.input:
        if value.name not in feeds:
            whole = value.type.tensor_type.elem_type == onnx.TensorProto.INT64
            shape = [d.dim_value or 4 for d in value.type.tensor_type.shape.dim]
            feeds[value.name] = np.zeros(shape, np.int64) if whole else rng.uniform(size=shape).astype(np.float32)
    outputs = [value.name for value in final.graph.output]
    results = in_double(evaluation, feeds, outputs)
    inputs = {value.name: feeds[value.name] for value in final.graph.input}
    write_arrays(stem.with_suffix(".json"), inputs, dict(zip(outputs, results, strict=True)))


def _portable_forward(stem: Path) -> None:
    onnx.save(onnx_cbp.rewrite(parse(FORWARD), portable=True), stem.with_suffix(".onnx"))
    feeds = _feeds("x", "gamma", "beta", "mean", "var")
    x, gamma, beta, mean, var = (value.astype(np.float64) for value in feeds.values())
    x_hat, _, batch = _normal(x)
    y = gamma[COLUMN] * x_hat + beta[COLUMN]
    updated = {"new_mean": 0.8 * mean + 0.2 * batch[0], "new_var": 0.8 * var + 0.2 * batch[1]}
    write_arrays(stem.with_suffix(".json"), feeds, {"y": y, **updated})


def _portable_gradients(stem: Path) -> None:
    """Forward and backward. Running statistics are constants: what updates them in place is no op of ONNX."""
    model = parse(TRAINING)
    for value in list(model.graph.input):
        if value.name.startswith("running"):
            model.graph.input.remove(value)
            model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), value.name))
    onnx.save(onnx_cbp.rewrite(model, portable=True), stem.with_suffix(".onnx"))
    feeds = _feeds("x", "gamma", "beta", "y_grad")
    x, gamma, beta, dY = (value.astype(np.float64) for value in feeds.values())
    x_hat, inv_std, _ = _normal(x)
    bias_grad, scale_grad = dY.sum((0, 2, 3)), (dY * x_hat).sum((0, 2, 3))
    count = x.size / x.shape[1]
    centred = dY - (bias_grad[COLUMN] + x_hat * scale_grad[COLUMN]) / count
    results = {"y": gamma[COLUMN] * x_hat + beta[COLUMN], "x_grad": (gamma * inv_std)[COLUMN] * centred}
    write_arrays(stem.with_suffix(".json"), feeds, {**results, "gamma_grad": scale_grad, "beta_grad": bias_grad})


def _feeds(*names: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    data = {"x": (4, 3, 5, 6), "y_grad": (4, 3, 5, 6)}
    return {name: rng.uniform(0.5, 2.0, data.get(name, 3)).astype(np.float32) for name in names}


def _normal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(x_hat, inv_std, (mean, var)) with the epsilon of both graphs."""
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    inv_std = 1 / np.sqrt(var + 1e-3)
    return (x - mean[COLUMN]) * inv_std[COLUMN], inv_std, (mean, var)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
