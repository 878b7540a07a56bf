"""generate_artifacts on arguments that say nothing: one line before the work, and nothing written."""

from __future__ import annotations

import logging
import os
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_cbp import OnnxCbpError
from onnx_cbp.training import generate_artifacts, load_artifacts
from onnx_cbp.training.builders import ort as ort_builder
from support.made_up.finetuning import LAYERS, network, parameters

pytestmark = pytest.mark.training

VALUES = parameters(1)
WEIGHTS = [name for name in VALUES if "running" not in name]


def _network(frozen=("bn0",)) -> onnx.ModelProto:
    model = network(VALUES, frozen)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unread"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.int64), "whole"))
    return model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "Hinge"}, "loss: there is no 'Hinge': use MSELoss"),
        ({"loss": 3}, "loss: 3 is none: use MSELoss"),
        ({"loss": None}, "loss: without one the graph's first output is the loss, and 'logits' of shape [N,4]"),
        ({"optimizer": "Adam"}, "optimizer: there is no 'Adam': use AdamW, SGD"),
        ({"optimizer": 3}, "optimizer: 3 is none: use AdamW, SGD"),
        ({"optimizer": "AdamW", "requires_grad": None}, "requires_grad names nothing that an optimizer could train"),
        ({"optimizer": "SGD", "requires_grad": []}, "requires_grad names nothing that an optimizer could train"),
        ({"ort_format": True, "custom_op_library": "lib.so"}, "ort_format and custom_op_library exclude each other"),
        ({"artifact_directory": "nowhere"}, "artifact_directory: 'nowhere' does not exist"),
        ({"artifact_directory": 3}, "artifact_directory: 3 is no folder"),
        ({"prefix": None}, "prefix: None is no text"),
        ({"requires_grad": ["bn1.running_mean"]}, "requires_grad: 'bn1.running_mean' is a running statistic, which"),
        ({"requires_grad": [*VALUES]}, "requires_grad: 'bn0.running_mean' is a running statistic of the frozen"),
        ({"requires_grad": ["nope", *WEIGHTS]}, "requires_grad: the model has no parameter 'nope'; its parameters are"),
        ({"requires_grad": ["logits"]}, "requires_grad: the model has no parameter 'logits'"),
        ({"requires_grad": ["x"]}, "requires_grad: the model has no parameter 'x'"),
        ({"requires_grad": "fc.weight"}, "requires_grad: 'fc.weight' is no list"),
        ({"requires_grad": [3]}, "requires_grad: 3 is no name"),
        ({"requires_grad": ["whole"]}, "requires_grad: 'whole' has type INT64, which has no gradient"),
        ({"requires_grad": ["unread"]}, "requires_grad: no node reads 'unread'"),
        ({"frozen_params": ["nope"]}, "frozen_params: the model has no parameter 'nope'"),
        ({"frozen_params": ["x"]}, "frozen_params: the model has no parameter 'x'"),
        ({"frozen_params": ["fc.weight"]}, "'fc.weight' cannot be in requires_grad and in frozen_params"),
        ({"additional_output_names": ["nope"]}, "additional_output_names: the graph has no value 'nope'"),
        ({"loss_input_names": ["nope"]}, "loss_input_names: the graph has no output 'nope'; its outputs are 'logits'"),
        ({"loss_input_names": "logits"}, "loss_input_names: 'logits' is no list"),
        ({"train_batch_norms": True}, "train_batch_norms: True is no name of batch norms: use '*' for all"),
        ({"train_batch_norms": [1]}, "train_batch_norms: 1 is no name"),
        ({"train_batch_norms": ["nope"]}, "train: 'nope' chooses no batch norm"),
        ({"rewrite_options": {"fold": 1}}, "rewrite_options: there is no 'fold': use portable, one_pass, fold_relu"),
        ({"rewrite_options": [("fold", 1)]}, "rewrite_options: [('fold', 1)] is none: give a dict"),
        ({"rewrite_options": {"freeze": 3}}, "rewrite_options: freeze: 3 is no list"),
    ],
    ids=str,
)
def test_one_line_before_the_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ort_builder, "_quiet", None)  # whoever gets as far as the builder fails otherwise
    given = {"requires_grad": WEIGHTS, "loss": "CrossEntropyLoss", "artifact_directory": tmp_path, **arguments}
    with pytest.raises(OnnxCbpError) as error:
        generate_artifacts(_network(), **given)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_onnx_runtime_cannot_do_is_one_line_too(tmp_path):
    model = _network()
    hard = next(node for node in model.graph.node if node.op_type == "Tanh")
    hard.op_type = "Hardmax"
    with pytest.raises(OnnxCbpError, match="Hardmax") as error:
        generate_artifacts(model, WEIGHTS, loss="CrossEntropyLoss", artifact_directory=tmp_path)
    text = str(error.value)
    assert "\n" not in text
    assert "std::" not in text
    assert not list(tmp_path.iterdir())


def test_a_parameter_that_does_not_reach_the_loss(tmp_path):
    model = _network()
    model.graph.node.append(onnx.helper.make_node("Identity", ["unread"], ["copy"]))
    with pytest.raises(OnnxCbpError, match="requires_grad: nothing of 'unread' reaches the loss"):
        generate_artifacts(model, [*WEIGHTS, "unread"], loss="CrossEntropyLoss", artifact_directory=tmp_path)


@pytest.mark.parametrize(
    ("frozen", "choice"),
    [(frozen, choice) for frozen in (LAYERS, ("bn0",)) for choice in (None, (), "*", ["bn0"])] + [((), None)],
)
def test_a_warning_names_what_stays_frozen(frozen, choice, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "onnx_cbp")
    generate_artifacts(
        network(VALUES, frozen),
        WEIGHTS,
        loss="CrossEntropyLoss",
        artifact_directory=tmp_path,
        train_batch_norms=choice,
    )
    messages = [record.message for record in caplog.records if record.name == "onnx_cbp"]
    if choice is None and frozen == LAYERS:
        (message,) = messages
        assert message.startswith("2 batch norms in inference form, 'bn0', 'bn1', stay frozen: train_batch_norms='*'")
        assert "\n" not in message
    else:
        assert not messages


@pytest.mark.parametrize("count", [1, 7])
def test_a_warning_names_what_an_exporter_folded(count, tmp_path, caplog):
    nodes = "".join(f"h{i + 1} = Conv (h{i}, W{i})" for i in range(count))
    weights = ",".join(f"float[2, 2, 1, 1] W{i}" for i in range(count))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2, 4, 4] h0, {weights}) => (float[N, 2, 4, 4] h{count}) '
        f"{{ {nodes} }}"
    )
    del model.graph.input[1:]
    for i, node in enumerate(model.graph.node):
        node.name = f"conv{i}"
        node.metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value="FuseBatchNormIntoConv")
        model.graph.initializer.append(numpy_helper.from_array(np.full((2, 2, 1, 1), 0.5, np.float32), f"W{i}"))
    caplog.set_level(logging.WARNING, "onnx_cbp")
    generate_artifacts(model, ["W0"], loss="MSELoss", artifact_directory=tmp_path)
    (message,) = [record.message for record in caplog.records if "folded" in record.message]
    assert "optimize=False" in message
    shown = ", ".join(f"'conv{i}'" for i in range(min(count, 4)))
    assert f"{count} batch norm" in message
    assert shown in message
    assert ("and 3 more" in message) == (count == 7)


@pytest.mark.parametrize("handler", [None, logging.NullHandler()], ids=["bare", "configured"])
def test_the_builder_is_quiet_and_nobody_else_is(handler, tmp_path, capfd, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [] if handler is None else [handler])
    monkeypatch.setattr(root, "level", logging.DEBUG)
    before, filters = list(root.handlers), list(root.filters)
    artifacts = load_artifacts()
    real = artifacts.generate_artifacts

    def speaking(*arguments, **named):
        os.write(2, b"somebody else\n")
        print("and in Python", file=sys.stderr)
        return real(*arguments, **named)

    monkeypatch.setattr(artifacts, "generate_artifacts", speaking)
    generate_artifacts(network(VALUES, ()), WEIGHTS, loss="CrossEntropyLoss", artifact_directory=tmp_path)
    out, err = capfd.readouterr()
    assert not out
    assert "onnxruntime" not in err
    assert "Saved training model" not in err
    assert "somebody else" in err
    os.write(2, b"heard")
    assert "heard" in capfd.readouterr().err
    assert root.handlers == before
    assert root.filters == filters


@pytest.mark.parametrize("role", ["loss", "optimizer"])
def test_blocks_of_onnx_runtimes_builder_are_named_to_ours(role, tmp_path):
    """Its own, and a user's: each says which builder takes it, and what ours has."""
    load_artifacts()
    from onnxruntime.training import onnxblock

    class Custom(onnxblock.Block):
        def build(self, *names):
            return names[0]

    own = onnxblock.loss.MSELoss() if role == "loss" else onnxblock.optim.AdamW()
    for block in (own, Custom()):
        with pytest.raises(OnnxCbpError) as error:
            generate_artifacts(
                _network(), WEIGHTS, artifact_directory=tmp_path, builder="onnx_cbp", **{"loss": "MSELoss", role: block}
            )
        start = f"{role}: {type(block).__name__} is a block of onnxruntime.training, for builder='onnxruntime' alone: "
        assert str(error.value).startswith(start)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
