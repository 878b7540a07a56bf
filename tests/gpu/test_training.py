"""A training graph of our builder's on a GPU beside the processor: how a user of a GPU trains."""

from __future__ import annotations

import numpy as np

from onnx_cbp.training.api import CheckpointState, Module, Optimizer
from support.stepping import NORMALISED, Training, batches, network, normalised_weights

#: Of losses and gradients, against the largest value.
TOLERANCE = 1e-4


def test_a_training_graph_beside_the_processor(provider, tmp_path):
    here = Training(network(NORMALISED, normalised_weights(0)), tmp_path)
    files = [tmp_path / f"{name}_model.onnx" for name in ("training", "eval", "optimizer")]
    state = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
    device = "cpu" if provider == "CPUExecutionProvider" else "cuda"
    module = Module(files[0], state, files[1], device=device)
    optimizer = Optimizer(files[2], module)
    for x, labels in batches(5, 1):
        want_loss, want = here.gradients(x, labels)
        module.lazy_reset_grad()
        assert abs(float(module(x, labels)) - want_loss) <= TOLERANCE * abs(want_loss)
        assert want
        for name, gradient in want.items():
            bound = TOLERANCE * max(float(np.abs(gradient).max()), 1e-3)
            np.testing.assert_allclose(state.parameters[name].grad, gradient, rtol=0, atol=bound, err_msg=name)
        here.optimizer.step()
        optimizer.step()
        for name, parameter in here.state.parameters:  # the next step from the same place: differences do not add up
            state.parameters[name].data = parameter.data
