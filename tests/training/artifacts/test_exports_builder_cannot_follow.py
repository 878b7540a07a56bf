"""Exports for which ONNX Runtime's gradient builder makes no training graph, and ours does."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_cbp.training import Artifacts, Trainer, generate_artifacts, load_artifacts
from onnx_cbp.training.compare import gradient_differences
from support.made_up.finetuning import batch, gradients, network, parameters
from support.training import trainer

pytestmark = [pytest.mark.training, pytest.mark.native]

#: Without scale and bias there are ones and zeros in their place.
FIXED = {"weight": np.ones, "bias": np.zeros}


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def _fixed_values() -> dict[str, np.ndarray]:
    values = parameters(3)
    for name, value in values.items():
        layer, kind = name.rsplit(".", 1)
        if layer.startswith("bn") and kind in FIXED:
            values[name] = FIXED[kind](len(value), np.float32)
    return values


def _drop(model: onnx.ModelProto) -> list[str]:
    """Take the scales and biases of batch norms out of the initializers; their names."""
    gone = [t for t in model.graph.initializer if t.name.startswith("bn") and "running" not in t.name]
    for tensor in gone:
        model.graph.initializer.remove(tensor)
    return [tensor.name for tensor in gone]


def _shared(model: onnx.ModelProto) -> None:
    """One vector of ones and one of zeros for all layers, as exporters that merge equal constants write them."""
    _drop(model)
    for kind, fill in FIXED.items():
        model.graph.initializer.append(numpy_helper.from_array(fill(6, np.float32), kind))
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.input[1:3] = ["weight", "bias"]


def _constants(model: onnx.ModelProto) -> None:
    """The same as nodes, as PyTorch's legacy exporter writes them."""
    _shared(model)
    for kind in FIXED:
        tensor = next(t for t in model.graph.initializer if t.name == kind)
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, helper.make_node("Constant", [], [kind], value=tensor))


def _computed(model: onnx.ModelProto) -> None:
    """Computed from shapes and a type of the data, as PyTorch's default exporter writes them."""
    for name in _drop(model):
        layer, kind = name.split(".")
        position = next(i for i, node in enumerate(model.graph.node) if node.name == layer)
        x = model.graph.node[position].input[0]
        one = numpy_helper.from_array(FIXED[kind]((), np.float32))
        for node in (
            helper.make_node("Expand", [f"{name}_like", f"{name}_size"], [name]),
            helper.make_node("CastLike", [f"{name}_scalar", x], [f"{name}_like"]),
            helper.make_node("Constant", [], [f"{name}_scalar"], value=one),
            helper.make_node("Shape", [x], [f"{name}_size"], start=1, end=2),
        ):
            model.graph.node.insert(position, node)


@pytest.mark.parametrize("frozen", [(), ("bn1",), ("bn0", "bn1")])
@pytest.mark.parametrize("exporter", [_shared, _constants, _computed])
def test_batch_norms_without_scale_and_bias(exporter, frozen, tmp_path):
    values, data = _fixed_values(), batch(4)
    model = network(values, frozen)
    exporter(model)
    onnx.checker.check_model(model, full_check=True)
    names = [tensor.name for tensor in model.graph.initializer]
    trained = [name for name in names if name.startswith("fc")]
    artifacts = load_artifacts()
    arguments = {"loss": artifacts.LossType.CrossEntropyLoss, "artifact_directory": str(tmp_path)}
    statistics = [name for name in names if "running" in name]
    # What goes wrong: two gradients with one name, or an op without one.
    with pytest.raises(RuntimeError, match=r"Duplicate definition of name|has not been registered: CastLike"):
        artifacts.generate_artifacts(model, requires_grad=trained, frozen_params=statistics, **arguments)
    generate_artifacts(model, requires_grad=trained, frozen_params=statistics, optimizer="AdamW", **arguments)
    found: Trainer = trainer(Artifacts.in_folder(tmp_path), "auto")
    want = gradients(values, *data, frozen)
    found.forward_backward(data)
    got = found.gradients()
    assert set(got) == set(trained)
    assert max(gradient_differences({name: want[name] for name in got}, got).values()) <= 1e-5
