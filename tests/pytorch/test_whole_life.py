"""The whole life of networks made up on the spot: exported, made into artifacts, trained, evaluated, finalized.

Each stage is held against PyTorch in float64, from the same state.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import onnx_cbp
from onnx_cbp.training import Artifacts, Trainer, generate_artifacts, load_api, load_artifacts
from onnx_cbp.training.compare import gradient_differences

torch = pytest.importorskip("torch", reason="PyTorch is not installed here")
from support.made_up.torch_networks import CLASSES, EXPORTERS, Network, export  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.training, pytest.mark.native]

STEPS, BATCH = 10, 6
#: What float32 leaves of one step of such a network; a float32 step of PyTorch itself is as far away.
TOLERANCE = 5e-5
#: A ReLU's input this close to zero, relative to its tensor's largest, may pass in float32 and not in float64.
NEAR_ZERO = 4e-6


@pytest.mark.parametrize("seed", range(10))
def test_every_stage_is_that_of_pytorch(seed: int, tmp_path: Path):
    exporter = EXPORTERS[seed % 2]
    network = Network(seed, frozen=seed % 3 != 0)
    print(f"seed {seed}, {exporter} exporter, {len(network.frozen)} batch norms frozen")  # shown where the test fails
    rng = np.random.default_rng(1000 + seed)
    exact = copy.deepcopy(network).double()

    forward = export(network, exporter, tmp_path)
    artifacts = load_artifacts()
    generate_artifacts(
        forward,
        requires_grad=network.trained(),
        frozen_params=[name for name in network.state_dict() if _is_kept(name, network, forward)],
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.AdamW,
        artifact_directory=str(tmp_path),
        # The default exporter writes every batch norm in inference form, and names those that trained otherwise.
        train_batch_norms="*_functional*" if exporter == "default" else (),
    )
    options = ort.SessionOptions()
    onnx_cbp.register(options)
    trainer = Trainer.load(Artifacts.in_folder(tmp_path), options)

    judged = 0
    for _ in range(STEPS):
        batch = _batch(rng)
        _load(exact, trainer.values())
        judged += _a_step_is_pytorchs(trainer, exact.train(), batch)
        trainer.optimizer.step()
    assert judged > STEPS / 2

    _load(exact, trainer.values())
    x, labels = _batch(rng)
    with torch.no_grad():
        logits = exact.eval()(torch.tensor(x, dtype=torch.float64)).numpy()
        loss = float(torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)))
    trainer.module.eval()
    evaluated = trainer.module(x, labels)
    assert float(evaluated[0] if isinstance(evaluated, tuple) else evaluated) == pytest.approx(loss, rel=1e-5)

    checkpoint = tmp_path / "trained"
    load_api().CheckpointState.save_checkpoint(trainer.state, str(checkpoint))
    for name in ("training_model.onnx", "eval_model.onnx"):
        deployed = onnx_cbp.finalize(tmp_path / name, checkpoint=checkpoint)
        assert {node.domain for node in deployed.graph.node} == {""}
        assert not any(node.op_type == "BatchNormalization" for node in deployed.graph.node)
        (found,) = ort.InferenceSession(deployed.SerializeToString()).run(None, {"x": x})
        np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())


def _is_kept(name: str, network: Network, forward) -> bool:
    """Whether the export has a parameter that is not trained."""
    return name not in network.trained() and name in {tensor.name for tensor in forward.graph.initializer}


def _batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(0.2, 1.5, (BATCH, 3, 6, 6)).astype(np.float32), rng.integers(0, CLASSES, BATCH)


def _load(exact: Network, values: dict[str, np.ndarray]) -> None:
    state = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    _, unexpected = exact.load_state_dict(state, strict=False)
    assert all(".own" in name or "Constant" in name or "val_" in name for name in unexpected), unexpected
    assert set(exact.trained()) <= set(state)


def _a_step_is_pytorchs(trainer: Trainer, exact: Network, batch: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether the gradients could be judged: no ReLU was so near to zero that float32 may decide otherwise."""
    before = trainer.values()
    undecided, counts = [], {}

    def relu(module, inputs, output):
        (value,) = inputs
        undecided.append(bool((value.abs() < NEAR_ZERO * value.abs().max()).any()))

    def batch_norm(name):
        return lambda module, inputs, output: counts.update({name: inputs[0].numel() / inputs[0].shape[1]})

    hooks = [m.register_forward_hook(relu) for m in exact.modules() if isinstance(m, torch.nn.ReLU)]
    hooks += [
        m.register_forward_hook(batch_norm(name))
        for name, m in exact.named_modules()
        if isinstance(m, torch.nn.BatchNorm2d)
    ]
    x, labels = batch
    exact.zero_grad()
    loss = torch.nn.functional.cross_entropy(exact(torch.tensor(x, dtype=torch.float64)), torch.tensor(labels))
    loss.backward()
    for hook in hooks:
        hook.remove()

    assert trainer.forward_backward(batch) == pytest.approx(loss.item(), rel=2e-6)
    want = {name: exact.get_parameter(name).grad.numpy() for name in exact.trained()}
    if not any(undecided):
        differences = gradient_differences(want, trainer.gradients())
        assert max(differences.values()) < TOLERANCE, differences
    after = trainer.values()
    for name in exact.statistics():
        if name not in after:
            continue
        layer, kind = name.rsplit(".", 1)
        if layer in exact.frozen:
            np.testing.assert_array_equal(after[name], before[name])
            continue
        expected, kept = exact.get_buffer(name).numpy(), 1 - exact.get_submodule(layer).momentum
        if kind == "running_var":  # ONNX's is the biased one
            old = kept * before[name]
            expected = old + (expected - old) * (counts[layer] - 1) / counts[layer]
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)
    return not any(undecided)
