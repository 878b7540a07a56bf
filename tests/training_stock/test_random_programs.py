"""Random programs of training calls, with several modules and optimizers of one state, against numpy in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from onnx_cbp.training import generate_artifacts
from onnx_cbp.training.api import CheckpointState, Module, Optimizer
from onnx_cbp.training.optimizers import SGD, AdamW
from onnx_cbp.training.running import training_session

MODEL = onnx.parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (double[N, 3] x) => (double[N, 2] y) <double[3, 2] w = {1, 2, 3, 4, 5, 6}, double[2] b = {0, 1}>
{ y = Gemm (x, w, b) }""")
MOMENTUM, BETAS, EPSILON, DECAY = 0.9, (0.9, 0.999), 1e-8, 0.01


class Reference:
    """What the calls mean, as in PyTorch: y = x w + b, with the mean of the squared errors as its loss."""

    def __init__(self, is_adam):
        self.is_adam = is_adam
        self.values = {"w": np.arange(1.0, 7).reshape(3, 2), "b": np.array([0.0, 1])}
        self.gradients = {name: np.zeros_like(value) for name, value in self.values.items()}
        self.slots = {name: np.zeros((2, *value.shape)) for name, value in self.values.items()}
        self.steps, self.rate = 0, 1e-3

    def loss(self, x, target):
        return ((x @ self.values["w"] + self.values["b"] - target) ** 2).mean()

    def train(self, x, target, resets):
        error = 2 * (x @ self.values["w"] + self.values["b"] - target) / target.size
        for name, gradient in {"w": x.T @ error, "b": error.sum(0)}.items():
            self.gradients[name] = gradient + (0 if resets else self.gradients[name])

    def step(self):
        self.steps += 1
        rate = float(np.float32(self.rate))
        for name, value in self.values.items():
            gradient, (first, second) = self.gradients[name], self.slots[name]
            if self.is_adam:
                first[...] = BETAS[0] * first + (1 - BETAS[0]) * gradient
                second[...] = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
                m, v = (slot / (1 - beta**self.steps) for slot, beta in zip((first, second), BETAS, strict=True))
                self.values[name] = value * (1 - rate * DECAY) - rate * m / (np.sqrt(v) + EPSILON)
            else:
                first[...] = MOMENTUM * first + gradient
                self.values[name] = value - rate * first


class Program:
    """Both sides, and the calls; each takes a random number generator."""

    def __init__(self, folder, is_adam):
        self.folder = folder
        optimizer = AdamW(betas=BETAS, eps=EPSILON, weight_decay=DECAY) if is_adam else SGD(momentum=MOMENTUM)
        generate_artifacts(
            *(MODEL, ["w", "b"]), loss="MSELoss", optimizer=optimizer, artifact_directory=folder, builder="onnx_cbp"
        )
        self.want = Reference(is_adam)
        self.begin("checkpoint")

    def begin(self, file):
        self.state = CheckpointState.load_checkpoint(self.folder / file)
        self.modules, self.optimizers, self.resets = [], [], []
        self.new_module(None)
        self.new_optimizer(None)

    def new_module(self, _):
        model, evaluates = (self.folder / f"{kind}_model.onnx" for kind in ("training", "eval"))
        self.modules.append(Module(model, self.state, evaluates))
        self.resets.append(True)

    def new_optimizer(self, _):
        self.optimizers.append(Optimizer(self.folder / "optimizer_model.onnx", self.modules[-1]))

    def train(self, rng):
        which, size = rng.integers(len(self.modules)), rng.integers(1, 5)
        x, target = rng.normal(size=(size, 3)), rng.normal(size=(size, 2))
        loss = self.want.loss(x, target)
        assert self.modules[which].train()(x, target) == pytest.approx(loss, rel=1e-10)
        self.want.train(x, target, self.resets[which])
        self.resets[which] = False

    def evaluate(self, rng):
        x, target = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
        module = self.modules[rng.integers(len(self.modules))].eval()
        assert module(x, target) == pytest.approx(self.want.loss(x, target), rel=1e-10)

    def reset(self, rng):
        which = rng.integers(len(self.modules))
        self.modules[which].lazy_reset_grad()
        self.resets[which] = True

    def step(self, rng):
        self.optimizers[rng.integers(len(self.optimizers))].step()
        self.want.step()

    def set_rate(self, rng):
        self.want.rate = float(rng.choice([0.0, 1e-3, 3e-2]))
        self.optimizers[rng.integers(len(self.optimizers))].set_learning_rate(self.want.rate)

    def write(self, rng):
        value = rng.normal(size=2)
        self.state.parameters["b"].data = value
        self.want.values["b"] = value

    def save_and_load(self, _):
        CheckpointState.save_checkpoint(self.state, self.folder / "saved", include_optimizer_state=True)
        self.begin("saved")
        self.want.gradients = {name: np.zeros_like(value) for name, value in self.want.values.items()}

    def check(self):
        for name, parameter in self.state.parameters:
            np.testing.assert_allclose(parameter.data, self.want.values[name], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(parameter.grad, self.want.gradients[name], rtol=1e-9, atol=1e-12)
        for optimizer in self.optimizers:
            assert optimizer.get_learning_rate() == pytest.approx(self.want.rate, rel=1e-6)


#: Calls, and how often each is chosen.
CALLS = {"train": 8, "step": 6, "reset": 5, "evaluate": 2, "set_rate": 1, "write": 1}
CALLS |= {"new_module": 1, "new_optimizer": 1, "save_and_load": 1}


@pytest.mark.product
@pytest.mark.parametrize("most_joined", [2**20, 4], ids=["few", "many"])
@pytest.mark.parametrize("is_adam", [False, True], ids=["momentum", "AdamW"])
@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(3, 8))])
def test_a_program_does_what_its_calls_mean(seed, is_adam, most_joined, tmp_path, monkeypatch):
    monkeypatch.setattr(training_session, "_MOST_JOINED", most_joined)
    rng = np.random.default_rng(seed)
    program = Program(tmp_path, is_adam)
    chances = np.array(list(CALLS.values())) / sum(CALLS.values())
    done = []
    for _ in range(60):
        done.append(str(rng.choice(list(CALLS), p=chances)))
        getattr(program, done[-1])(rng)
        program.check()
    print(seed, done)
