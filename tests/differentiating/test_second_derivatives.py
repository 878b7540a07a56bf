"""Gradients of gradients through batch norms are PyTorch's in float64, by the rules of our ops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes import FoldReluPass, ReplaceForwardPass
from onnx_cbp.graph_passes.differentiating import differentiate
from support.gradients.double_backward import EPSILON
from support.gradients.gradient_driver import runner
from support.models import parse

DATA = Path(__file__).parent.parent / "data" / "double_backward.npz"

FORMS = {
    "in one": "Y, m, v, c = onnx_cbp.BatchNormTrain <axis: int = 1, epsilon: float = 0.001> (X, scale, B)",
    "in steps": """m, v, c = onnx_cbp.ChannelStats <axis: int = 1, stash_type: int = 11> (X)
                   Y = onnx_cbp.ChannelNormalize <axis: int = 1, epsilon: float = 0.001> (X, scale, B, m, v)""",
    "ONNX's own": """Y, m, v = BatchNormalization <epsilon: float = 0.001, training_mode: int = 1>
                     (X, scale, B, running, running)""",
    "replaced": """Y, m, v = BatchNormalization <epsilon: float = 0.001, training_mode: int = 1>
                     (X, scale, B, running, running)""",
}


def _twice(rank: int, form: str) -> ir.Model:
    """The gradients of <V, dX> with respect to X, scale and dY, where dX is that of <dY, batch norm of X>."""
    channels = 2 if rank == 4 else 3
    dims = ", ".join(["N", str(channels), *(f"S{i}" for i in range(rank - 2))])
    zeros, ones = (", ".join([number] * channels) for number in "01")
    model = ir.from_proto(
        parse(
            f"""<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
            agraph (double[{dims}] X, double[{channels}] scale, double[{dims}] dY, double[{dims}] V)
                => (double[{dims}] Y)
            <double[{channels}] B = {{{zeros}}}, double[{channels}] running = {{{ones}}}> {{ {FORMS[form]} }}"""
        )
    )
    if form == "replaced":
        ReplaceForwardPass(one_pass=True)(model)
        FoldReluPass()(model)
    graph = model.graph
    X, scale, dY, V = graph.inputs
    (dX,) = differentiate(model, {graph.outputs[0]: dY}, [X])
    assert dX is not None
    graph.outputs.clear()
    for gradient in (dX, *differentiate(model, {dX: V}, [X, scale, dY])):
        assert gradient is not None
        graph.outputs.append(gradient)
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("backend", ["reference", "onnxruntime"])
def test_equals_pytorch(backend, rank, form):
    with np.load(DATA) as arrays:
        case = {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"rank{rank}/")}
    assert EPSILON == 0.001
    run = runner(ir.to_proto(_twice(rank, form)), backend)
    results = run({name: case[name] for name in ("X", "scale", "dY", "V")})
    want = [case["dX"], *(case[f"hvp_{name}"] for name in ("X", "scale", "dY"))]
    for got, expected in zip(results, want, strict=True):
        # epsilon is a 32-bit attribute here, and a double in PyTorch
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
