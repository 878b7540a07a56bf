"""The memory that training takes."""

from __future__ import annotations

import gc
import json

import numpy as np
import onnx
import onnxruntime as ort

from onnx_cbp.training import Artifacts, Trainer
from support.stepping import Training, network

#: Convolutions with batch norms behind one another.
LAYERS = 6


def _layers() -> onnx.ModelProto:
    layer = """
        c{0} = Conv <pads: ints = [1, 1]> (h{0}, w{0})
        n{0}, mean{0}_next, var{0}_next = BatchNormalization <training_mode: int = 1>
            (c{0}, s{0}, b{0}, mean{0}, var{0})
        h{1} = Relu (n{0})"""
    body = "".join(layer.format(i, i + 1) for i in range(LAYERS))
    text = f"""
    <ir_version: 8, opset_import: ["" : OPSET]>
    deep (float[N, 5, L] h0) => (float[N, 5, L] h{LAYERS}) {{ {body} }}"""
    rng = np.random.default_rng(0)
    values = {f"w{i}": rng.standard_normal((5, 5, 3)).astype(np.float32) for i in range(LAYERS)}
    values |= {f"{n}{i}": np.ones(5, np.float32) for i in range(LAYERS) for n in ("s", "b", "mean", "var")}
    return network(text, values)


def test_a_weights_gradient_is_made_as_soon_as_it_can_be(tmp_path):
    """Left for the end, it keeps the arrays that it is made of: of all layers these are as much as the network's."""
    Training(_layers(), tmp_path)
    made_by = {v: n.name for n in onnx.load(tmp_path / "training_model.onnx").graph.node for v in n.output}
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    trainer = Trainer.load(Artifacts.in_folder(tmp_path), options)
    rng = np.random.default_rng(1)
    trainer.step((rng.standard_normal((2, 5, 8)).astype(np.float32), rng.integers(0, 5, (2, 8))))
    del trainer
    gc.collect()  # the profile is written when its session ends
    step = max(tmp_path.glob("profile*"), key=lambda path: path.stat().st_size)
    events = [event["name"].removesuffix("_kernel_time") for event in json.loads(step.read_text(encoding="utf-8"))]
    for i in range(1, LAYERS):
        assert events.index(made_by[f"w{i}_grad"]) < events.index(made_by[f"s{i - 1}_grad"])
