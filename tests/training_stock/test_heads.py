"""Networks of which the loss reads a part: the rest is no reason to refuse them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from onnx_cbp import finalize
from onnx_cbp.training.api import CheckpointState
from support.ops import session
from support.stepping import Training

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 4] x) => (float[N, 3] y, float[N, 2] z)
<
    float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] b = {0, 1, 0},
    float[4, 2] w2 = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] b2 = {1, 0},
    float[4] s = {1, 2, 1, 2}, float[4] c = {0, 0, 1, 1}, float[4] m = {0, 0, 0, 0}, float[4] v = {1, 1, 1, 1}
>
{
    y = Gemm (x, w, b)
    n = BatchNormalization (x, s, c, m, v)
    z = Gemm (n, w2, b2)
}
"""
OF_Z = {"w2", "b2", "s", "c", "m", "v"}


@pytest.mark.parametrize("batch_norms", [(), "*"], ids=["frozen", "training"])
@pytest.mark.parametrize("frozen", [None, ["w2", "b2"]], ids=["all", "some frozen"])
@pytest.mark.parametrize("more", [[], ["z"]], ids=["", "an output"])
def test_a_head_that_the_loss_does_not_read(more, frozen, batch_norms, tmp_path):
    trained = Training(
        *(onnx.parser.parse_model(MODEL), tmp_path),
        loss_input_names=["y"],
        additional_output_names=more,
        train_batch_norms=batch_norms,
        frozen_params=frozen,
    )
    assert {name for name, p in trained.state.parameters if p.requires_grad} == {"w", "b"}
    assert {name for name, _ in trained.state.parameters} >= OF_Z
    before = trained.values()
    x, labels = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), np.array([0, 1, 2, 0, 1])
    for _ in range(3):
        trained.step(x, labels)
    moved = {name for name, value in trained.values().items() if not np.array_equal(value, before[name])}
    # As in PyTorch, whose forward pass goes through all heads.
    assert moved == {"w", "b"} | ({"m", "v"} if batch_norms else set())
    trained.state.parameters["b2"].data = np.array([3, 4], np.float32)
    CheckpointState.save_checkpoint(trained.state, tmp_path / "saved", include_optimizer_state=True)
    trained.load(tmp_path / "saved")
    np.testing.assert_array_equal(trained.state.parameters["b2"].data, [3, 4])
    own = trained.values()
    trained.step(x, labels)
    whole = session(finalize(onnx.parser.parse_model(MODEL), checkpoint=tmp_path / "saved"), None).run(["z"], {"x": x})
    n = (x - own["m"]) / np.sqrt(own["v"] + 1e-5) * own["s"] + own["c"]
    np.testing.assert_allclose(whole[0], n @ own["w2"] + own["b2"], rtol=1e-4, atol=1e-4)
