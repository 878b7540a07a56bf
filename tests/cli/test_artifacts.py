"""`onnx-cbp artifacts`: what it writes and tells."""

from __future__ import annotations

import onnx
import pytest

from onnx_cbp.training import checkpoints
from onnx_cbp.training.api import CheckpointState, Module, Optimizer
from support.models import op_types
from support.stepping import NORMALISED, PERCEPTRON, batches, network, normalised_weights, weights

FILES = ["checkpoint", "eval_model.onnx", "optimizer_model.onnx", "training_model.onnx"]
INFERENCE = NORMALISED.replace("training_mode: int = 1, ", "").replace("normal, bn1_mean, bn1_var", "normal")
INFERENCE = INFERENCE.replace("logits, bn2_mean, bn2_var", "logits")


@pytest.fixture
def perceptron(tmp_path):
    onnx.save(network(PERCEPTRON, weights(0)), tmp_path / "perceptron.onnx")
    return tmp_path / "perceptron.onnx"


@pytest.fixture
def normalised(tmp_path):
    onnx.save(network(NORMALISED, normalised_weights(0)), tmp_path / "normalised.onnx")
    return tmp_path / "normalised.onnx"


@pytest.fixture
def make(run, tmp_path):
    """Make artifacts with our builder."""
    return lambda model, *options: run("artifacts", model, "-o", tmp_path / "made", *options)


USUAL = ("--loss", "CrossEntropyLoss", "--optimizer", "SGD")


def test_what_it_writes_trains_and_is_told(make, perceptron, tmp_path):
    result = make(perceptron, *USUAL)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "4 parameters train, 66 elements; 0 others, frozen or running statistics",
        "x, labels -> loss",
        f"wrote training_model.onnx, eval_model.onnx, optimizer_model.onnx, checkpoint to {tmp_path / 'made'}",
    ]
    folder = tmp_path / "made"
    assert sorted(file.name for file in folder.iterdir()) == FILES
    state = CheckpointState.load_checkpoint(folder / "checkpoint")
    module = Module(folder / "training_model.onnx", state)
    optimizer = Optimizer(folder / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(0.1)
    (batch,) = batches(1, 0)
    losses = []
    for _ in range(5):
        losses.append(float(module(*batch)))
        optimizer.step()
        module.lazy_reset_grad()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_a_folder_that_is_there_and_no_optimizer(make, perceptron, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "kept").touch()
    result = make(perceptron, "--loss", "MSELoss", "--output-name", "logits", "--output-name", "hidden")
    assert result.exit_code == 0, result.stderr
    assert "x, target -> loss, logits, hidden" in result.stdout
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "checkpoint",
        "eval_model.onnx",
        "kept",
        "training_model.onnx",
    ]


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        (["--frozen", "w1"], {"b1", "w2", "b2"}),
        (["--frozen", "w1", "--frozen", "b1"], {"w2", "b2"}),
        (["--requires-grad", "b2"], {"b2"}),
    ],
)
def test_parameters_are_frozen_or_chosen(make, perceptron, options, trained, tmp_path):
    assert make(perceptron, *USUAL, *options).exit_code == 0
    assert set(checkpoints.load(tmp_path / "made" / "checkpoint").trained) == trained


def _counts(folder, *endings):
    """How many nodes of the training graph have op types that end so."""
    types = op_types(onnx.load(folder / "made" / "training_model.onnx"))
    return [sum(each.endswith(ending) for each in types) for ending in endings]


def test_batch_norms_are_synchronised_or_frozen(make, normalised, tmp_path):
    kinds = ("TrainUpdate", "AllGather", "AllReduceBucket")
    assert make(normalised, *USUAL, "--data-parallel").exit_code == 0
    assert _counts(tmp_path, *kinds) == [2, 0, 2]  # a message for the loss, and one for the gradients
    assert make(normalised, *USUAL, "--freeze", "logits").exit_code == 0
    assert _counts(tmp_path, *kinds) == [1, 0, 0]
    result = make("--synchronize", normalised, *USUAL, "--data-parallel")  # an option without a group before MODEL
    assert result.exit_code == 0, result.stderr
    assert _counts(tmp_path, *kinds) == [0, 2, 2]
    assert make(normalised, *USUAL, "--portable").exit_code == 0
    functions = onnx.load(tmp_path / "made" / "training_model.onnx").functions
    assert "BatchNormTrainUpdate" in {function.name for function in functions}


def test_batch_norms_in_inference_form_are_named_with_the_option_that_trains_them(make, tmp_path):
    model = network(INFERENCE, normalised_weights(0))
    onnx.save(model, tmp_path / "inference.onnx")
    (told,) = (line for line in make(tmp_path / "inference.onnx", *USUAL).stdout.splitlines() if "batch norm" in line)
    assert told.endswith("stay frozen: --train '*' lets them train")
    for patterns, trains in ((["*"], 2), (["normal"], 1), (["norm*", "log*"], 2)):
        result = make(tmp_path / "inference.onnx", *USUAL, *(word for p in patterns for word in ("--train", p)))
        assert result.exit_code == 0, result.stderr
        assert "stay frozen" not in result.stdout
        assert _counts(tmp_path, "TrainUpdate") == [trains]


def _fails(result, *said):
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert all(word in result.stderr for word in said), result.stderr


def test_errors_are_one_line_and_leave_nothing(make, run, perceptron, tmp_path):
    before = sorted(tmp_path.iterdir())
    _fails(make(perceptron, "--loss", "NoLoss"), "NoLoss")
    _fails(make(perceptron), "'logits'")
    _fails(make(perceptron, "--loss", "CrossEntropyLoss", "--optimizer", "Adagrad"), "'Adagrad'", "AdamW, SGD, Adam")
    _fails(make(perceptron, *USUAL, "--frozen", "w9"), "'w9'", "w1")
    _fails(make(perceptron, *USUAL, "--output-name", "nowhere"), "'nowhere'")
    _fails(make(perceptron, *USUAL, "--train", "bn*"), "'bn*' chooses no batch norm")
    _fails(make(perceptron, *USUAL, "--freeze", "bn*"), "'bn*' chooses no batch norm")
    _fails(make(perceptron, *USUAL, "--portable", "--data-parallel"), "exclude each other")
    _fails(make(tmp_path / "missing.onnx", *USUAL), "does not exist")
    assert sorted(tmp_path.iterdir()) == before
    _fails(run("artifacts", perceptron, "-o", tmp_path / "no" / "made", *USUAL), "No such file or directory")
    _fails(run("artifacts", perceptron, "-o", perceptron, *USUAL), "is a file")
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_tied_is_told(make, perceptron):
    result = make(perceptron, *USUAL, "--tied", "fc")
    assert result.exit_code != 0
    assert "tied_params: 'fc' is no parameter that several modules read; they read together: none" in result.stderr
    assert make(perceptron, *USUAL, "--tied", "").exit_code == 0
