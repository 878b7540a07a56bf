"""The padding of an embedding, of which PyTorch's default exporter leaves a remark."""

from __future__ import annotations

import numpy as np
import pytest

from support.stepping import Training, network

MODEL = """
<ir_version: 8, opset_import: ["" : 18]>
embedded (int64[N, T] x) => (float loss)
{
    rows = Gather (table, x)  same = Gather (table, x)
    curved = Sin (rows)  both = Mul (curved, same)  loss = ReduceMean <keepdims: int = 0> (both)
}"""
#: As torch 2.13 writes it.
CALL = (
    "%embedding : [num_users=1] = call_function[target=torch.ops.aten.embedding.default]"
    "(args = (%p_e_weight, %x{}), kwargs = {{}})"
)


@pytest.mark.native
@pytest.mark.parametrize("padding", [None, 0, 2])
def test_its_row_has_no_gradient(padding, tmp_path):
    table = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    model = network(MODEL, {"table": table})
    for node, said in zip(model.graph.node, ("" if padding is None else f", {padding}", ""), strict=False):
        node.metadata_props.add(key="pkg.torch.onnx.fx_node", value=CALL.format(said))
    x = np.array([[0, 2, 4], [2, 2, 1]])
    _, gradients = Training(model, tmp_path, loss=None).gradients(x)
    want = np.zeros_like(table)
    for index in x.reshape(-1):
        row = table[index]
        want[index] += np.sin(row) + (0 if index == padding else np.cos(row) * row)
    np.testing.assert_allclose(gradients["table"], want / (x.size * 3), rtol=1e-5, atol=1e-7)
