"""Small networks as tf2onnx 1.17 exports them from Keras 3 and TensorFlow 2.21, with batch norms in training mode.

    python models/exporters/keras_tf2onnx.py [FOLDER]        needs tensorflow and tf2onnx

Keras writes BatchNormalization in training mode in arithmetic; TensorFlow's own op, FusedBatchNormV3 with is_training,
becomes ONNX's in inference form, with statistics that the graph makes. A layer norm that is written with that op is
none of the batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

OPSET = 15
SHAPES = {"conv1d": (10, 3), "conv3d": (5, 6, 5, 2), "dense": (7,)}
IMAGE = (8, 8, 3)


def layers(name: str) -> list[keras.layers.Layer]:
    """The layers of a network with one batch norm in it."""
    convolution = {
        "conv1d": lambda: keras.layers.Conv1D(5, 3, padding="same"),
        "conv2d": lambda: keras.layers.Conv2D(5, 3),
        "conv2d_without_bias": lambda: keras.layers.Conv2D(5, 3, use_bias=False, strides=2, padding="same"),
        "conv3d": lambda: keras.layers.Conv3D(4, 3),
        "depthwise": lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        "separable": lambda: keras.layers.SeparableConv2D(5, 3),
        "transposed": lambda: keras.layers.Conv2DTranspose(4, 3, strides=2),
        "dense": lambda: keras.layers.Dense(6),
        "without_scale": lambda: keras.layers.Conv2D(4, 1),
    }[name]()
    with_scale = name != "without_scale"
    return [convolution, keras.layers.BatchNormalization(scale=with_scale, center=with_scale), keras.layers.ReLU()]


KERAS = ("conv1d", "conv2d", "conv2d_without_bias", "conv3d", "depthwise", "separable", "transposed", "dense")


def keras_network(name: str) -> tuple[Callable, tuple[int, ...]]:
    """A network of Keras in training mode, with parameters that are not those of a fresh one."""
    shape = SHAPES.get(name, IMAGE)
    network = keras.Sequential([keras.Input(shape), *layers(name)])
    rng = np.random.default_rng(len(name))
    network.set_weights([value + rng.normal(0, 0.2, value.shape) ** 2 for value in network.get_weights()])
    return lambda x: network(x, training=True), shape


def fused(x: tf.Tensor) -> tf.Tensor:
    """TensorFlow's op in training mode."""
    scale, offset = tf.constant([0.5, 1.0, 1.5]), tf.constant([0.1, -0.2, 0.3])
    empty = tf.constant([], tf.float32)
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=empty, variance=empty, epsilon=1e-3, is_training=True
    )
    return tf.nn.relu(y)


def layer_norm(x: tf.Tensor) -> tf.Tensor:
    """A layer norm by TensorFlow's op, every row as a channel, as older versions of Keras write theirs."""
    rows = tf.reshape(x, (1, -1, 8, 1))
    ones, zeros = tf.ones((tf.shape(rows)[1],)), tf.zeros((tf.shape(rows)[1],))
    empty = tf.constant([], tf.float32)
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=rows,
        scale=ones,
        offset=zeros,
        mean=empty,
        variance=empty,
        epsilon=1e-3,
        is_training=True,
        data_format="NCHW",
    )
    return tf.reshape(y, tf.shape(x))


def export(call: Callable, shape: tuple[int, ...], path: Path) -> None:
    """Write a function of a batch as ONNX."""
    signature = [tf.TensorSpec((None, *shape), tf.float32, name="x")]
    model, _ = tf2onnx.convert.from_function(tf.function(call, signature), signature, opset=OPSET)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main(folder: Path) -> None:
    """Write all of them."""
    for name in (*KERAS, "without_scale"):
        export(*keras_network(name), folder / f"keras_tf2onnx_{name}.onnx")
    export(fused, IMAGE, folder / "keras_tf2onnx_fused.onnx")
    export(layer_norm, (5, 8), folder / "keras_tf2onnx_layer_norm.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "keras_layers")
