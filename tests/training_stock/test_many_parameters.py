"""Training with many parameters: runs write over the state, with the same results and a third of the memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.graph_passes.stepping.overwriting import may_overwrite
from onnx_cbp.graph_passes.stepping.parts import find_cuts
from onnx_cbp.training import checkpoints
from onnx_cbp.training.api import CheckpointState
from onnx_cbp.training.optimizers import SGD, Adam, AdamW
from onnx_cbp.training.running import sessions, training_session
from support.stepping import NORMALISED, Training, network, normalised_weights

OPTIMIZERS = {
    "SGD": SGD(),
    "SGD with decay": SGD(weight_decay=0.1),
    "Nesterov": SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": Adam(weight_decay=0.1),
    "AdamW": AdamW(),
    "ONNX Runtime's AdamW": "AdamW",
    "clipped": AdamW(max_grad_norm=0.1),
    "clipped SGD": SGD(max_grad_norm=0.1, momentum=0.9),
    "vectors without decay": AdamW(decay_vectors=False),
    "clipped, without decay": Adam(weight_decay=0.1, no_decay="w*", max_grad_norm=0.1),
}
#: How many vectors are constant, and how many numbers are taken of whole vectors.
CUTS = {"clipped": (0, 1), "clipped SGD": (0, 1), "vectors without decay": (1, 0), "clipped, without decay": (1, 1)}


def large(monkeypatch):
    """Let any network have many parameters, in several parts."""
    monkeypatch.setattr(training_session, "_MOST_JOINED", 0)
    monkeypatch.setattr(training_session, "_PART", 16)  # vector instructions see the same elements


def trained(folder, optimizer, **more):
    """Losses and gradients of six passes, with gradients added up, another rate, and a value that is set between."""
    made = Training(network(NORMALISED, normalised_weights(3)), folder, optimizer=optimizer, **more)
    rng = np.random.default_rng(5)
    seen = []
    made.module.train()
    for number in range(6):
        x, labels = rng.standard_normal((4, 5)).astype(np.float32), rng.integers(0, 3, 4)
        seen.append(np.array(made.module(x, labels)))
        seen += [p.grad for _, p in made.state.parameters if p.requires_grad]
        if number == 2:
            continue  # the gradients of the next are added
        if number == 3:
            made.optimizer.set_learning_rate(0.02)
            made.state.parameters["b2"] = np.ones(3, np.float32)
        made.optimizer.step()
        made.module.lazy_reset_grad()
    seen.append(np.array(made.module.eval()(x, labels)))
    save(made, folder / "saved")
    return seen, made


def save(made, path):
    CheckpointState.save_checkpoint(made.state, path, include_optimizer_state=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_bits_as_with_few(name, tmp_path, monkeypatch):
    want, small = trained(tmp_path / "few", OPTIMIZERS[name])
    large(monkeypatch)
    got, made = trained(tmp_path / "many", OPTIMIZERS[name])
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)
    cuts = made.module._session._cuts
    assert (len(cuts.constants), len(cuts.scalars)) == CUTS.get(name, (0, 0))
    assert small.module._session._cuts is None
    few, many = (checkpoints.load(tmp_path / folder / "saved") for folder in ("few", "many"))
    assert few.optimizer.step == many.optimizer.step == 5
    for name, value in few.parameters.items():
        np.testing.assert_array_equal(many.parameters[name], value)
    for slot, arrays in few.optimizer.slots.items():
        for name, value in arrays.items():
            np.testing.assert_array_equal(many.optimizer.slots[slot][name], value)


def test_evaluation_and_a_second_module_read_the_same_parameters(tmp_path, monkeypatch):
    large(monkeypatch)
    _, made = trained(tmp_path, "AdamW")
    x, labels = np.ones((2, 5), np.float32), np.array([0, 2])
    again = Training.at(tmp_path)
    again.load(tmp_path / "saved")
    assert np.array_equal(made.module.eval()(x, labels), again.module.eval()(x, labels))
    for name, parameter in made.state.parameters:
        np.testing.assert_array_equal(again.state.parameters[name].data, parameter.data)


def test_a_module_that_cannot_be_made_leaves_the_state_as_it_was(tmp_path):
    made = Training(network(NORMALISED, normalised_weights(3)), tmp_path)
    state = type(made.state).load_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(OnnxCbpError):
        type(made.module)(tmp_path / "training_model.onnx", state, tmp_path / "nowhere.onnx")
    np.testing.assert_array_equal(state.parameters["w1"].data, normalised_weights(3)["w1"])


@pytest.mark.parametrize("name", ["AdamW", "clipped"])
def test_a_step_that_fails_halfway_ends_the_training(name, tmp_path, monkeypatch):
    large(monkeypatch)
    _, made = trained(tmp_path, OPTIMIZERS[name])
    x, labels = np.ones((2, 5), np.float32), np.array([0, 2])
    made.module.train()(x, labels)
    runs = []

    def run(self, *arguments, **more):
        runs.append(arguments)
        if len(runs) == (3 if name in CUTS else 2):
            raise OnnxCbpError("no memory")
        return original(self, *arguments, **more)

    original = sessions.BoundSession.run
    monkeypatch.setattr(sessions.BoundSession, "run", run)
    with pytest.raises(OnnxCbpError, match="no memory"):
        made.optimizer.step()
    for use in (
        made.optimizer.step,
        lambda: made.module(x, labels),
        lambda: made.module.eval()(x, labels),
        lambda: save(made, tmp_path / "after"),
    ):
        with pytest.raises(OnnxCbpError, match="load the last checkpoint"):
            use()
    assert not (tmp_path / "after").exists()


MEMORY = """
from pathlib import Path
import numpy as np
from onnx_cbp.training.api import CheckpointState, Module, Optimizer
def peak():
    # ru_maxrss begins with the size of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
import onnx_cbp.finalizing, safetensors.numpy
before = peak()
state = CheckpointState.load_checkpoint("checkpoint")
module = Module("training_model.onnx", state, "eval_model.onnx")
optimizer = Optimizer("optimizer_model.onnx", module)
module.train()
for _ in range(2):
    module(np.ones((2, 4096), np.float32), np.array([1, 2]))
    optimizer.step()
    module.lazy_reset_grad()
print(peak() - before)
"""


def test_memory(tmp_path):
    """Adam needs four times the parameters: they, gradients and two moments. Copies would be eight times more."""
    rng = np.random.default_rng(0)
    values = {"w1": rng.standard_normal((4096, 2048)).astype(np.float32), "w2": np.ones((2048, 3), np.float32)}
    text = """
    <ir_version: 8, opset_import: ["" : OPSET]>
    wide (float[N, 4096] x) => (float[N, 3] y) { h = MatMul (x, w1)  r = Tanh (h)  y = MatMul (r, w2) }"""
    Training(network(text, values), tmp_path)
    command = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-c", MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    mebibytes = sum(value.nbytes for value in values.values()) / 2**20
    assert float(done.stdout.split()[-1]) < 5.5 * mebibytes


GRAPH = """<ir_version: 8, opset_import: ["" : 17]> g (float[6] p, float[6] d, float[1] r) => (float[6] n, float[6] o)
<float[6] each = {1, 2, 3, 4, 5, 6}, float two = {2}, int64 axis = {0}, int64[1] six = {6}> """


@pytest.mark.parametrize(
    ("body", "overwrites", "constants", "scalars"),
    [
        ("c = Mul (d, r)  n = Sub (p, c)  o = Mul (d, two)", True, (), ()),
        ("n = Sub (p, d)  o = Mul (p, two)", False, (), ()),
        ("c = Mul (p, two)  n = Sub (c, d)  o = Mul (n, two)", True, (), ()),
        ("i = Identity (p)  n = Sub (p, d)  o = Mul (i, two)", False, (), ()),
        ("n = Identity (p)  o = Mul (d, two)", False, (), ()),
        ("k = Expand (two, six)  q = Mul (k, r)  n = Sub (p, q)  o = Mul (d, two)", True, ("k",), ()),
        ("s = ReduceSum <keepdims = 1> (d)  q = Mul (s, r)  n = Sub (p, q)  o = Mul (d, q)", True, (), ("q",)),
        ("k = Expand (r, six)  n = Sub (p, k)  o = Mul (d, two)", True, None, None),
        ("n = Sub (p, d)  o = Mul (d, each)", True, None, None),
        ("c = CumSum (d, axis)  n = Sub (p, c)  o = Mul (d, two)", True, None, None),
        ("n = Sub (p, d)  o = CumSum (d, axis)", True, None, None),
    ],
)
def test_what_goes_over_what_was_there_and_in_parts(body, overwrites, constants, scalars):
    inferred = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(f"{GRAPH} {{ {body} }}"), data_prop=True)
    graph = ir.from_proto(inferred).graph
    assert may_overwrite(graph, "p", "n") == overwrites
    assert not may_overwrite(graph, "nothing", "n")
    cuts = find_cuts(graph, ["p", "d"])
    assert (constants, scalars) == ((None, None) if cuts is None else (cuts.constants, cuts.scalars))
