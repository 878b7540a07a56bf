"""A network that is being fine-tuned: batch norms in training form and in inference form, and float64 references."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 6
CLASSES = 4
LAYERS = ("bn0", "bn1")
EPSILON = 1e-3


def parameters(seed: int) -> dict[str, np.ndarray]:
    """Weights of two Gemms with a batch norm and a Tanh behind each, and of a classifier; no ReLU, which has a kink."""
    rng = np.random.default_rng(seed)
    values = {}
    for index, layer in enumerate(LAYERS):
        values[f"fc{index}.weight"] = rng.normal(0, 0.5, (CHANNELS, CHANNELS))
        values[f"{layer}.weight"] = rng.normal(1.0, 0.3, CHANNELS)
        values[f"{layer}.bias"] = rng.normal(0.0, 0.3, CHANNELS)
        values[f"{layer}.running_mean"] = rng.normal(0.3, 0.5, CHANNELS)
        values[f"{layer}.running_var"] = rng.uniform(0.2, 2.0, CHANNELS)
    values["fc.weight"] = rng.normal(0, 0.5, (CLASSES, CHANNELS))
    values["fc.bias"] = rng.normal(0, 0.1, CLASSES)
    return {name: value.astype(np.float32) for name, value in values.items()}


def network(
    values: dict[str, np.ndarray],
    frozen: Collection[str],
    opset: int = 17,
    activation: str = "Tanh",
    updated: bool = False,
) -> onnx.ModelProto:
    """The network as an exporter writes it; batch norms in `frozen` are in inference form.

    `updated`: the updated running statistics are outputs of the graph.
    """
    nodes, x = [], "x"
    for index, layer in enumerate(LAYERS):
        inputs = [f"fc{index}_out", *(f"{layer}.{name}" for name in ("weight", "bias", "running_mean", "running_var"))]
        trains = layer not in frozen
        outputs = [f"{layer}_out"]
        attributes: dict[str, Any] = {"epsilon": EPSILON}
        if trains:
            more = ("mean", "var") if opset >= 14 else ("mean", "var", "saved_mean", "saved_var")
            outputs += [f"{layer}_{name}" for name in more]
        if opset >= 14:
            attributes["training_mode"] = int(trains)
        nodes += [
            helper.make_node("Gemm", [x, f"fc{index}.weight"], [f"fc{index}_out"], transB=1),
            helper.make_node("BatchNormalization", inputs, outputs, name=layer, **attributes),
            helper.make_node(activation, [f"{layer}_out"], [f"tanh{index}_out"]),
        ]
        x = f"tanh{index}_out"
    nodes.append(helper.make_node("Gemm", [x, "fc.weight", "fc.bias"], ["logits"], transB=1))
    statistics = [
        helper.make_tensor_value_info(f"{layer}_{name}", TensorProto.FLOAT, [CHANNELS])
        for layer in LAYERS
        for name in ("mean", "var")
        if updated and layer not in frozen
    ]
    graph = helper.make_graph(
        nodes,
        "finetuning",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES]), *statistics],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def batch(seed: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 1.5, (size, CHANNELS)).astype(np.float32), rng.integers(0, CLASSES, size)


def loss(values: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray, frozen: Collection[str]) -> float:
    """The network's cross entropy in float64."""
    v = {name: value.astype(np.float64) for name, value in values.items()}
    h = x.astype(np.float64)
    for index, layer in enumerate(LAYERS):
        h = h @ v[f"fc{index}.weight"].T
        mean, var = (
            (v[f"{layer}.running_mean"], v[f"{layer}.running_var"]) if layer in frozen else (h.mean(0), h.var(0))
        )
        h = np.tanh(
            (h - mean) / np.sqrt(var + np.float64(np.float32(EPSILON))) * v[f"{layer}.weight"] + v[f"{layer}.bias"]
        )
    logits = h @ v["fc.weight"].T + v["fc.bias"]
    logits -= logits.max(1, keepdims=True)
    log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-log_prob[np.arange(len(labels)), labels].mean())


def gradients(
    values: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray, frozen: Collection[str]
) -> dict[str, np.ndarray]:
    """The gradients of the loss by central differences in float64: right to some 1e-9."""
    step, result = 1e-5, {}
    v = {name: value.astype(np.float64) for name, value in values.items()}
    for name in values:
        if "running" in name:
            continue
        result[name] = np.zeros(v[name].shape)
        for index in np.ndindex(v[name].shape):
            kept = v[name][index]
            v[name][index] = kept + step
            above = loss(v, x, labels, frozen)
            v[name][index] = kept - step
            below = loss(v, x, labels, frozen)
            v[name][index] = kept
            result[name][index] = (above - below) / (2 * step)
    return result
