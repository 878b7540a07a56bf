"""Programs as people write them for ONNX Runtime's training API: with another import they run on any onnxruntime.

Three ways in which that API is used, after its documentation and samples: a training that is stopped and goes on;
fine-tuning of the last layer of a network whose other weights are frozen; averaging of what several devices learnt.
Where the training build is installed, the programs also run as they stand, to the same losses.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_cbp.training.runtime import has_training_build
from support.stepping import PERCEPTRON, network, weights

#: ONNX Runtime's own import wants PyTorch, which its training does not need.
WITHOUT_TORCH = "import onnx_cbp.training\nonnx_cbp.training.load_api(), onnx_cbp.training.load_artifacts()\n"
IMPORTS = """
import numpy as np
import onnx
from onnxruntime.training import artifacts
from onnxruntime.training.api import CheckpointState, LinearLRScheduler, Module, Optimizer

rng = np.random.default_rng(3)
batches = [(rng.standard_normal((8, 5)).astype(np.float32), rng.integers(0, 3, 8)) for _ in range(6)]
"""

TRAINING = """
model = onnx.load("forward.onnx")
artifacts.generate_artifacts(
    model,
    requires_grad=[each.name for each in model.graph.initializer],
    loss=artifacts.LossType.CrossEntropyLoss,
    optimizer=artifacts.OptimType.AdamW,
    artifact_directory=".",
)
state = CheckpointState.load_checkpoint("checkpoint")
module = Module("training_model.onnx", state, "eval_model.onnx")
optimizer = Optimizer("optimizer_model.onnx", module)
optimizer.set_learning_rate(0.002)
losses = []
for epoch in range(2):
    module.train()
    for x, labels in batches[:4]:
        losses.append(module(x, labels))
        optimizer.step()
        module.lazy_reset_grad()
    module.eval()
    losses += [module(x, labels) for x, labels in batches[4:]]
    state.properties["epoch"] = epoch
    CheckpointState.save_checkpoint(state, "latest", include_optimizer_state=True)
state = CheckpointState.load_checkpoint("latest")
module = Module("training_model.onnx", state, "eval_model.onnx")
optimizer = Optimizer("optimizer_model.onnx", module)
optimizer.set_learning_rate(0.002)
assert state.properties["epoch"] == 1
for x, labels in batches:
    losses.append(module(x, labels))
    optimizer.step()
    module.lazy_reset_grad()
module.export_model_for_inferencing("inference.onnx", ["logits"])
"""

FINE_TUNING = """
artifacts.generate_artifacts(
    onnx.load("forward.onnx"),
    requires_grad=["w2", "b2"],
    frozen_params=["w1", "b1"],
    loss=artifacts.LossType.CrossEntropyLoss,
    optimizer=artifacts.OptimType.SGD,
    artifact_directory=".",
    additional_output_names=["logits"],
)
state = CheckpointState.load_checkpoint("checkpoint")
module = Module("training_model.onnx", state, "eval_model.onnx", device="cpu")
optimizer = Optimizer("optimizer_model.onnx", module)
before = {name: parameter.data.copy() for name, parameter in state.parameters}
optimizer.set_learning_rate(0.1)
losses = []
for step, (x, labels) in enumerate(batches):
    loss, logits = module(x, labels)
    losses.append(loss)
    losses.append((logits.argmax(1) == labels).mean())
    if step % 2:
        optimizer.step()
        module.lazy_reset_grad()
for name, parameter in state.parameters:
    assert np.array_equal(parameter.data, before[name]) == (not parameter.requires_grad), name
"""

AVERAGING = """
artifacts.generate_artifacts(
    onnx.load("forward.onnx"),
    requires_grad=["w1", "b1", "w2", "b2"],
    loss=artifacts.LossType.CrossEntropyLoss,
    optimizer=artifacts.OptimType.SGD,
    artifact_directory=".",
    nominal_checkpoint=True,
)
losses, learnt = [], []
for device in range(2):
    state = CheckpointState.load_checkpoint("checkpoint")
    module = Module("training_model.onnx", state)
    optimizer = Optimizer("optimizer_model.onnx", module)
    optimizer.set_learning_rate(0.1)
    for x, labels in batches[device::2]:
        losses.append(module(x, labels))
        optimizer.step()
        module.lazy_reset_grad()
    learnt.append(module.get_contiguous_parameters(trainable_only=False))
server = CheckpointState.load_checkpoint("nominal_checkpoint")
module = Module("training_model.onnx", server)
assert module.get_parameters_size(False) == learnt[0].shape()[0]
average = learnt[0]
average.update_inplace((learnt[0].numpy() + learnt[1].numpy()) / 2)
module.copy_buffer_to_parameters(average, False)
losses.append(module(*batches[0]))
"""
PROGRAMS = {"training": TRAINING, "fine-tuning": FINE_TUNING, "averaging": AVERAGING}


def _run(program: str, folder: Path) -> np.ndarray:
    folder.mkdir()
    onnx.save(network(PERCEPTRON, weights(0)), folder / "forward.onnx")
    (folder / "program.py").write_text(f"{program}\nnp.save('losses.npy', np.array(losses, np.float64))\n")
    result = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return np.load(folder / "losses.npy")


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_program_runs_with_another_import(name, tmp_path):
    program = IMPORTS + PROGRAMS[name]
    changed = program.replace("onnxruntime.training", "onnx_cbp.training")
    if has_training_build():  # there, nobody is given our builder who does not ask for it
        changed = changed.replace('artifact_directory="."', 'artifact_directory=".", builder="onnx_cbp"')
    got = _run(changed, tmp_path / "ours")
    assert np.isfinite(got).all()
    if has_training_build():
        np.testing.assert_allclose(got, _run(WITHOUT_TORCH + program, tmp_path / "theirs"), rtol=1e-5)
