"""Running statistics are written right behind the batch norm that made them, not at the end of the step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_cbp
from support.models import op_types, parse

WRITER = "InPlaceAccumulatorV2"
LAYERS = 4


def _chain(more: str = "", outputs: str = "") -> onnx.ModelProto:
    """Batch norms one after the other, each with running statistics of its own, then their gradients."""
    vectors = "".join(f", float[3] {name}{i}" for i in range(LAYERS) for name in ("s", "b", "m", "v"))
    forward = "".join(
        f"a{i}, nm{i}, nv{i}, sm{i}, si{i} = com.microsoft.BatchNormInternal <training_mode: int = 1>"
        f" (y{i}, s{i}, b{i}, m{i}, v{i})  y{i + 1} = Tanh (a{i})\n"
        for i in range(LAYERS)
    )
    backward = "".join(
        f"t{i} = Mul (g{i + 1}, y{i + 1})  g{i}, ds{i}, db{i} = com.microsoft.BatchNormalizationGrad"
        f" (t{i}, y{i}, s{i}, sm{i}, si{i})\n"
        for i in reversed(range(LAYERS))
    )
    gradients = ", ".join(f"float[3] d{name}{i}" for i in range(LAYERS) for name in ("s", "b"))
    return parse(f"""
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, H] y0{vectors}) => (float[N, 3, H] g0, {gradients}{outputs})
{{ {forward} g{LAYERS} = Neg (y{LAYERS})
   {backward} {more} }}
""")


def test_writers_stand_last_the_first_layers_at_the_end():
    rewritten = onnx_cbp.rewrite(_chain())
    onnx.checker.check_model(rewritten)
    tail = rewritten.graph.node[-2 * LAYERS :]
    assert [node.op_type for node in tail] == [WRITER] * 2 * LAYERS
    assert [int(node.input[0][1:]) for node in tail] == [i for i in reversed(range(LAYERS)) for _ in range(2)]
    assert onnx_cbp.rewrite(rewritten) == rewritten


def test_a_statistic_that_something_else_reads_is_written_where_it_was():
    model = _chain("r = Identity (m1)", ", float[3] r")
    rewritten = onnx_cbp.rewrite(model)
    tail = {node.input[0] for node in rewritten.graph.node[-2 * LAYERS + 1 :]}
    assert op_types(rewritten).count(WRITER) == 2 * LAYERS
    assert tail == {f"{name}{i}" for i in range(LAYERS) for name in ("m", "v")} - {"m1"}


@pytest.mark.training
@pytest.mark.native
def test_onnxruntime_runs_them_there(tmp_path):
    options = ort.SessionOptions()
    onnx_cbp.register(options)
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(onnx_cbp.rewrite(_chain()).SerializeToString(), options)
    feeds = {
        i.name: np.ones([d if isinstance(d, int) else 4 for d in i.shape], np.float32) for i in session.get_inputs()
    }
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    forward = [index for index, op in enumerate(ran) if op == "BatchNormTrainUpdate"]
    assert len(forward) == LAYERS
    for index in forward:
        assert ran[index + 1 : index + 4].count(WRITER) == 2, ran
