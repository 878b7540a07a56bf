"""Running statistics taken anew of ONNX Runtime's artifacts: those of a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

import onnx_cbp
from onnx_cbp.training import Trainer, load_api
from support.made_up.networks import random_batches, random_network
from support.training import generate, rewrite

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return generate(random_network(3, 4), tmp_path_factory.mktemp("artifacts"))


def _load(path):
    return load_api().CheckpointState.load_checkpoint(str(path))


def _values(state):
    return {name: np.array(parameter.data) for name, parameter in state.parameters}


def _trained(artifacts, batches):
    """The average of what a step with momentum 0 leaves: the batch statistics as ONNX Runtime takes them, biased."""
    import onnx

    model = onnx.load(artifacts.training_model)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "momentum":
                attribute.f = 0.0
    path = artifacts.training_model.parent / "momentum0.onnx"
    onnx.save(model, path)
    state = _load(artifacts.checkpoint)
    module = load_api().Module(str(path), state)
    found = []
    for batch in batches:
        module.train()
        module(*batch)
        found.append({name: value for name, value in _values(state).items() if "running" in name})
    return {name: np.mean([of[name] for of in found], axis=0) for name in found[0]}


@pytest.mark.parametrize("graph", ["training", "rewritten", "eval"])
def test_they_are_written_into_the_checkpoint(artifacts, tmp_path, graph):
    batches = random_batches(random_network(3, 4), 3, 5)
    want = _trained(artifacts, batches)
    path = tmp_path / "checkpoint"
    path.write_bytes(artifacts.checkpoint.read_bytes())
    before = _values(_load(path))
    model = artifacts.training_model
    if graph == "rewritten":
        model = rewrite(artifacts, tmp_path).training_model
    if graph == "eval":
        model = artifacts.training_model.parent / "eval_model.onnx"  # one that ONNX Runtime does not load
    state = _load(path)
    onnx_cbp.update_bn(model, batches, checkpoint=state, unbiased_running_var=False)
    np.testing.assert_array_equal(_values(_load(path))["bn0.running_var"], before["bn0.running_var"])
    onnx_cbp.update_bn(model, batches, checkpoint=path, unbiased_running_var=False)
    for after in (_values(state), _values(_load(path))):
        for name, value in after.items():
            if "running" in name:
                np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(value, before[name])
    assert [file.name for file in tmp_path.iterdir() if "checkpoint" in file.name] == ["checkpoint"]


def test_training_goes_on_with_the_optimizers_state(artifacts, tmp_path):
    batches = random_batches(random_network(3, 4), 3, 5)
    trainer = Trainer.load(artifacts)
    for batch in batches:
        trainer.step(batch)
    path = tmp_path / "checkpoint"
    load_api().CheckpointState.save_checkpoint(trainer.state, str(path), include_optimizer_state=True)
    size = path.stat().st_size
    onnx_cbp.update_bn(artifacts.training_model, batches, checkpoint=path)
    assert path.stat().st_size == size, "the optimizer's state is in it still"
    _load(path)


def test_a_failed_run_leaves_the_checkpoint_as_it_is(artifacts, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(artifacts.checkpoint.read_bytes())
    batches = random_batches(random_network(3, 4), 1, 5)
    bad = np.full_like(batches[0][0], np.nan)
    with pytest.raises(onnx_cbp.OnnxCbpError, match="not finite"):
        onnx_cbp.update_bn(artifacts.training_model, [*batches, bad], checkpoint=path)
    assert path.read_bytes() == artifacts.checkpoint.read_bytes()
    with pytest.raises(onnx_cbp.OnnxCbpError, match="'nowhere' does not exist"):
        onnx_cbp.update_bn(artifacts.training_model, batches, checkpoint="nowhere")
    with pytest.raises(onnx_cbp.OnnxCbpError, match="give the checkpoint that has it"):
        onnx_cbp.update_bn(artifacts.training_model, batches)
