"""Small networks as tf2onnx 1.17 exports them from Keras 3 and TensorFlow 2.21, in training mode and for inference.

python models/exporters/keras_networks.py [FOLDER]       needs tensorflow and tf2onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from expected import CLASSES, SHAPES, batch, by_initializers, fresh, initializers_of, write

OPSET = 15
FORMS = {"training": True, "inference": False}


def network(name: str) -> keras.Sequential:
    """A network whose parameters and statistics are not those of a fresh one."""
    layers = keras.layers
    behind = {
        "image": lambda: [
            *(layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()),
            *(layers.DepthwiseConv2D(3, padding="same"), layers.BatchNormalization(momentum=0.7), layers.ReLU(6.0)),
            *(layers.GlobalAveragePooling2D(), layers.Dense(5), layers.BatchNormalization(epsilon=1e-5)),
            *(layers.ReLU(), layers.Dense(CLASSES)),
        ],
        "signal": lambda: [
            *(layers.Conv1D(4, 3, dilation_rate=2), layers.BatchNormalization(), layers.ReLU()),
            *(layers.Conv1D(5, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()),
            *(layers.GlobalAveragePooling1D(), layers.Dense(CLASSES)),
        ],
        "volume": lambda: [
            *(layers.Conv3D(4, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU()),
            *(layers.Conv3D(3, 3, strides=2), layers.BatchNormalization(), layers.ReLU()),
            *(layers.GlobalAveragePooling3D(), layers.Dense(CLASSES)),
        ],
    }[name]()
    channels, *sizes = SHAPES[name]
    net = keras.Sequential([keras.Input((*sizes, channels)), *behind])
    net.set_weights([fresh(i, v.name, tuple(v.shape)).astype(v.dtype) for i, v in enumerate(net.weights)])
    return net


def export(net: keras.Sequential, shape: tuple[int, ...], *, trains: bool, path: Path) -> None:
    """Write a network, traced with a batch of unknown size."""
    signature = [tf.TensorSpec((None, *shape), tf.float32, name="x")]
    function = tf.function(lambda x: net(x, training=trains), signature)
    model, _ = tf2onnx.convert.from_function(function, signature, opset=OPSET)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def results(name: str, x: np.ndarray, labels: np.ndarray) -> dict:
    """What Keras computes in float64."""
    found: dict = {"x": x, "labels": labels}
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for mode in ("frozen", "train"):
        keras.config.set_dtype_policy("float64")
        net = network(name)
        keras.config.set_dtype_policy("float32")
        with tf.GradientTape() as tape:
            logits = net(tf.constant(x, tf.float64), training=mode == "train")
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, net.trainable_variables)
        np.testing.assert_allclose(loss, loss_of(labels, logits), rtol=1e-6)
        found["eval/output" if mode == "frozen" else "train/output"] = logits.numpy()
        found[f"{mode}/loss"] = float(loss)
        paths = [variable.path for variable in net.trainable_variables]
        found[f"{mode}/gradient"] = {path: g.numpy() for path, g in zip(paths, gradients, strict=True)}
    found["train/running"] = {variable.path: variable.numpy() for variable in net.non_trainable_variables}
    return {key: _without_numbers(value) if isinstance(value, dict) else value for key, value in found.items()}


def _without_numbers(values: dict) -> dict:
    """Values by their order in place of their paths, in which every network of a process has another number."""
    return {f"{i}/{path.split('/')[-1]}": value for i, (path, value) in enumerate(values.items())}


def kept(model: onnx.ModelProto, net: keras.Sequential, found: dict) -> dict:
    """The results that a file can be held against: one whose batch norms are folded has other parameters."""
    held = {
        **_without_numbers({v.path: v.numpy() for v in net.trainable_variables}),
        **_without_numbers({v.path: v.numpy() for v in net.non_trainable_variables}),
    }
    places = initializers_of(model, held)
    lost = [name for name in held if name not in places]
    print("not in the file:", lost)
    if any("moving" not in name for name in lost):
        return {key: value for key, value in found.items() if key in ("x", "labels", "eval/output", "frozen/loss")}
    if lost:
        found = {key: value for key, value in found.items() if not key.startswith(("eval", "frozen", "train/running"))}
    return {k: by_initializers(model, held, v) if isinstance(v, dict) else v for k, v in found.items()}


def main(folder: Path) -> None:
    """Write all of them."""
    for name in SHAPES:
        net = network(name)
        x, labels = batch(name, channels_last=True)
        found = results(name, x, labels)
        for form, trains in FORMS.items():
            path = folder / f"keras_{form}_{name}.onnx"
            export(net, x.shape[1:], trains=trains, path=path)
            write(path.with_suffix(".npz"), kept(onnx.load(path), net, found))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "networks")
