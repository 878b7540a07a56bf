"""Batch norms in arithmetic in our builder's artifacts: one op with one gradient, which replicas synchronise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_cbp import OnnxCbpError, distributed
from support.stepping import Training, network, slopes

#: X, the axes that statistics are taken over, and the shape of scale and bias.
LAYOUTS = {
    "NC": ((6, 5), (0,), (5,)),
    "NCL": ((6, 5, 3), (0, 2), (5, 1)),
    "NLC": ((6, 3, 5), (0, 1), (5,)),
    "NCHW": ((6, 5, 3, 2), (0, 2, 3), (1, 5, 1, 1)),
    "NHWC": ((6, 3, 2, 5), (0, 1, 2), (5,)),
    "NCDHW": ((6, 5, 2, 3, 2), (0, 2, 3, 4), (5, 1, 1, 1)),
    "NDHWC": ((6, 2, 3, 2, 5), (0, 1, 2, 3), (1, 1, 1, 1, 5)),
}
EPSILON = 1e-3
REPLICAS = {"synchronize": True, "data_parallel": True}
SEED = 8


def model(layout: str, reads_mean: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A batch norm by hand between two scalings, and what comes of it as a row a sample; and the parameters."""
    shape, axes, vector = LAYOUTS[layout]
    rng = np.random.default_rng(SEED)
    values = {"w": rng.normal(size=(1,) * len(shape)), "scale": rng.uniform(0.5, 1.5, vector)}
    values |= {"bias": rng.normal(size=vector), "head": rng.normal(size=(int(np.prod(shape[1:])), 3))}
    dims = ", ".join(map(str, ("N", *shape[1:])))
    text = f"""
<ir_version: 8, opset_import: ["" : OPSET]>
byhand (float[{dims}] x) => (float[N, 3] logits)
{{
    X = Mul (x, w)
    mean = ReduceMean <axes: ints = {list(axes)}> (X)
    centred = Sub (X, mean)
    squared = Mul (centred, centred)
    var = ReduceMean <axes: ints = {list(axes)}> (squared)
    epsilon = Constant <value_float: float = {EPSILON}> ()
    shifted = Add (var, epsilon)
    std = Sqrt (shifted)
    normal = Div (centred, std)
    scaled = Mul (normal, scale)
    Y = Add (scaled, bias)
    read = {"Add (Y, mean)" if reads_mean else "Identity (Y)"}
    flat = Flatten (read)
    logits = MatMul (flat, head)
}}"""
    return network(text, {name: value.astype(np.float32) for name, value in values.items()}), values


def batch(layout: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SEED + 1)
    shape = LAYOUTS[layout][0]
    means = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (rng.normal(size=shape) + means).astype(np.float32), rng.integers(0, 3, shape[0])


def exact(layout: str, reads_mean: bool, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients by central differences in float64."""
    (x, labels), axes = batch(layout), LAYOUTS[layout][1]

    def loss(v: dict[str, np.ndarray]) -> float:
        X = x.astype(np.float64) * v["w"]
        mean = X.mean(axes, keepdims=True)
        Y = (X - mean) / np.sqrt(X.var(axes, keepdims=True) + EPSILON) * v["scale"] + v["bias"]
        logits = (Y + mean if reads_mean else Y).reshape(len(x), -1) @ v["head"]
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]))

    return slopes(loss, {name: value.astype(np.float32) for name, value in values.items()})


def close(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    largest = max(np.abs(each).max() for each in want.values())
    for name in ("scale", "bias", "head", "w"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("reads_mean", [False, True], ids=["", "its mean is read, too"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_go_through_the_statistics(layout, reads_mean, tmp_path):
    print("seed", SEED)
    made, values = model(layout, reads_mean)
    trained = Training(made, tmp_path, requires_grad=["w", "scale", "bias", "head"])
    _, gradients = trained.gradients(*batch(layout))
    close(gradients, exact(layout, reads_mean, values))
    kinds = [node.op_type for node in onnx.load(tmp_path / "training_model.onnx").graph.node]
    assert ("BatchNormGrad" in kinds) == (not reads_mean)


@pytest.mark.native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_replicas_are_one_batch(layout, tmp_path):
    made, values = model(layout, reads_mean=False)
    Training(made, tmp_path, requires_grad=["w", "scale", "bias", "head"], rewrite_options=REPLICAS)
    x, labels = batch(layout)

    def replicate() -> dict[str, np.ndarray]:
        shard = slice(0, 2) if distributed.rank() == 0 else slice(2, None)
        return Training.at(tmp_path).gradients(x[shard], labels[shard])[1]

    for gradients in distributed.run_replicas(replicate, 2, timeout=30):
        close(gradients, exact(layout, False, values))


@pytest.mark.parametrize("layout", ["NC", "NHWC", "NCDHW"])
def test_where_something_else_reads_the_statistics_replicas_are_refused(layout, tmp_path):
    made, _ = model(layout, reads_mean=True)
    with pytest.raises(OnnxCbpError, match="something else reads its statistics") as refused:
        Training(made, tmp_path, rewrite_options=REPLICAS)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_scale_and_bias_train_where_nobody_names_what_does(tmp_path):
    made, _ = model("NHWC", reads_mean=False)
    assert {"scale", "bias", "head"} <= set(Training(made, tmp_path).gradients(*batch("NHWC"))[1])
