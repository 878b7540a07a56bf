"""Small networks as jax2onnx 0.17 exports them from Flax 0.12 (nnx) and JAX 0.10, in training mode.

python models/exporters/jax_networks.py [FOLDER]         needs flax and jax2onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from expected import CLASSES, SHAPES, batch, by_initializers, fresh, initializers_of, write
from flax import nnx
from jax2onnx import to_onnx


def pooled(x: jax.Array) -> jax.Array:
    """The mean over everything between the batch and the channels."""
    return x.mean(tuple(range(1, x.ndim - 1)))


def network(name: str) -> nnx.Sequential:
    """A network whose parameters and statistics are not those of a fresh one."""
    rngs = nnx.Rngs(0)
    conv, norm, linear = (lambda *a, _k=k, **o: _k(*a, rngs=rngs, **o) for k in (nnx.Conv, nnx.BatchNorm, nnx.Linear))
    layers = {
        "image": lambda: (
            *(conv(3, 4, (3, 3), padding="VALID", use_bias=False), norm(4), nnx.relu),
            *(conv(4, 4, (3, 3), feature_group_count=4), norm(4, momentum=0.7), nnx.relu6),
            *(pooled, linear(4, 5), norm(5, epsilon=1e-3), nnx.relu, linear(5, CLASSES)),
        ),
        "signal": lambda: (
            *(conv(3, 4, (3,), kernel_dilation=2, padding="VALID"), norm(4), nnx.relu),
            *(conv(4, 5, (3,), padding="VALID", use_bias=False), norm(5), nnx.relu, pooled, linear(5, CLASSES)),
        ),
        "volume": lambda: (
            *(conv(2, 4, (3, 3, 3), use_bias=False), norm(4), nnx.relu),
            *(conv(4, 3, (3, 3, 3), strides=2, padding="VALID"), norm(3), nnx.relu, pooled, linear(3, CLASSES)),
        ),
    }[name]()
    net = nnx.Sequential(*layers)
    for i, (key, variable) in enumerate(named(net).items()):
        variable.set_value(jnp.asarray(fresh(i, key, variable.get_value().shape)))
    return net


def named(net: nnx.Module, kind: type = nnx.Variable) -> dict[str, nnx.Variable]:
    """The parameters and statistics of a network by their paths."""
    return {".".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(net, kind))}


def results(name: str, x: np.ndarray, labels: np.ndarray) -> dict:
    """What Flax computes in float64."""
    found: dict = {"x": x, "labels": labels}
    wide = jnp.asarray(x, jnp.float64)
    for mode in ("frozen", "train"):
        net = network(name)
        net.train() if mode == "train" else net.eval()
        for variable in named(net).values():
            variable.set_value(variable.get_value().astype(jnp.float64))

        def loss_of(net: nnx.Module) -> tuple[jax.Array, jax.Array]:
            logits = net(wide)
            return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean(), logits

        (loss, logits), gradients = nnx.value_and_grad(loss_of, has_aux=True)(net)
        assert logits.dtype == jnp.float64
        found["eval/output" if mode == "frozen" else "train/output"] = np.asarray(logits)
        found[f"{mode}/loss"] = float(loss)
        found[f"{mode}/gradient"] = {
            ".".join(map(str, path)): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(gradients)
        }
    found["train/running"] = {key: np.asarray(v.get_value()) for key, v in named(net, nnx.BatchStat).items()}
    return found


def kept(model: onnx.ModelProto, net: nnx.Module, found: dict) -> dict:
    """The results that a file can be held against: one whose batch norms are folded has other parameters."""
    held = {key: np.asarray(variable.get_value()) for key, variable in named(net).items()}
    lost = [name for name in held if name not in initializers_of(model, held)]
    print("not in the file:", lost)
    if any(not name.endswith((".mean", ".var")) for name in lost):
        return {key: value for key, value in found.items() if key in ("x", "labels", "eval/output", "frozen/loss")}
    if lost:
        found = {key: value for key, value in found.items() if not key.startswith(("eval", "frozen", "train/running"))}
    return {k: by_initializers(model, held, v) if isinstance(v, dict) else v for k, v in found.items()}


def by_hand(x: jax.Array) -> jax.Array:
    """A batch norm of [N, H, W, C] that code spells out."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    scale, bias = jnp.array([0.5, 1.0, 1.5], jnp.float32), jnp.array([0.1, -0.2, 0.3], jnp.float32)
    return jax.nn.relu((x - mean) * (jax.lax.rsqrt(var + 1e-3) * scale) + bias)


def export(net: nnx.Sequential, name: str, shape: tuple[int, ...], *, trains: bool) -> onnx.ModelProto:
    """A network, traced with a batch of unknown size."""
    net.train() if trains else net.eval()
    names = {"input_names": ["x"], "output_names": ["logits"]}
    return to_onnx(net, [("B", *shape)], model_name=name, opset=18, **names)


def main(folder: Path) -> None:
    """Write all of them."""
    made = to_onnx(by_hand, [("B", 6, 6, 3)], model_name="by_hand", input_names=["x"], output_names=["y"], opset=18)
    onnx.save(made, folder.parent / "jax_by_hand.onnx")
    for name in SHAPES:
        x, labels = batch(name, channels_last=True)
        path = folder / f"jax_training_{name}.onnx"
        model, at_inference = (export(network(name), name, x.shape[1:], trains=trains) for trains in (True, False))
        assert model == at_inference, "jax2onnx writes batch norms in inference form in either mode"
        onnx.save(model, path)
        with jax.enable_x64(True):
            write(path.with_suffix(".npz"), kept(model, network(name), results(name, x, labels)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "networks")
