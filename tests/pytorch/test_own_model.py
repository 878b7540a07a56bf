"""The example of a PyTorch network of one's own."""

from __future__ import annotations

import warnings

import onnx
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed here")
pytest.importorskip("onnxscript", reason="PyTorch's default exporter needs onnxscript")

from support.programs.examples import load_example


def test_it_trains_and_is_deployed(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns of much
        loss, accuracy = load_example("own_model").main(tmp_path, steps=60)
    assert loss < 0.35  # of two classes it begins at 0.69
    assert accuracy > 0.8
    deployed = onnx.load(tmp_path / "deployed.onnx")
    assert not {node.op_type for node in deployed.graph.node} & {"BatchNormalization"}
    assert {opset.domain for opset in deployed.opset_import} <= {"", "ai.onnx"}
