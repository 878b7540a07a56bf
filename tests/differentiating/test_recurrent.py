"""RNN, GRU and LSTM of a fixed length are differentiated step by step; the steps compute what the op does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.differentiating import differentiate
from support.models import parse

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def model_of(op: str, attributes: str = "", more: str = "", inputs: str = "X, W, R, B", steps: str = "4"):
    """A graph of one op; `more` are further inputs with their types, and `inputs` all that it reads."""
    directions = 2 if "bidirectional" in attributes else 1
    gates = GATES[op] * 3
    outputs = {"LSTM": ["Y", "H", "C"]}.get(op, ["Y", "H"])
    shapes = {"Y": f"{steps}, {directions}, N, 3", "H": f"{directions}, N, 3", "C": f"{directions}, N, 3"}
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[{steps}, N, 2] X, float[{directions}, {gates}, 2] W, float[{directions}, {gates}, 3] R,
                float[{directions}, {2 * gates}] B{more}) => ({", ".join(f"float[{shapes[n]}] {n}" for n in outputs)})
        {{ {", ".join(outputs)} = {op} <hidden_size: int = 3 {attributes}> ({inputs}) }}"""
    )


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("RNN", ""),
        ("RNN", "Relu"),
        ("RNN", "Sigmoid"),
        ("GRU", ""),
        ("GRU", "linear"),
        ("GRU", "Sigmoid,Relu"),
        ("LSTM", ""),
        ("LSTM", "Sigmoid,Tanh,Relu"),
    ],
)
def test_the_steps_compute_what_the_op_does(op, attributes, direction):
    text = f', direction: string = "{direction}"'
    if attributes == "linear":
        text += ", linear_before_reset: int = 1"
    elif attributes:
        names = attributes.split(",") * (2 if direction == "bidirectional" else 1)
        text += ", activations: strings = [" + ", ".join(f'"{name}"' for name in names) + "]"
    directions = 2 if direction == "bidirectional" else 1
    more = f", float[{directions}, N, 3] H0" + (f", float[{directions}, N, 3] C0" if op == "LSTM" else "")
    proto = model_of(op, text, more, "X, W, R, B, , H0" + (", C0" if op == "LSTM" else ""))
    model = ir.from_proto(proto)
    infer_shapes(model)
    X, Y = model.graph.inputs[0], model.graph.outputs[0]
    (dX,) = differentiate(model, {Y: (dY := ir.Value(name="dY", type=Y.type, shape=Y.shape))}, [X])
    assert op not in {node.op_type for node in model.graph}
    model.graph.inputs.append(dY)
    model.graph.outputs.append(dX)
    rng = np.random.default_rng(3)
    feeds = {
        value.name: rng.normal(size=[size if isinstance(size, int) else 5 for size in value.shape]).astype(np.float32)
        for value in model.graph.inputs
    }
    original, unrolled = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        for each in (proto, ir.to_proto(model))
    )
    want = original.run(None, {name: value for name, value in feeds.items() if name != "dY"})
    *results, gradient = unrolled.run(None, feeds)
    for one, other in zip(results, want, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    assert gradient.shape == feeds["X"].shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": "T"}, "its sequence has no fixed length: export the model with only the batch dynamic"),
        ({"steps": "513"}, "its sequence has 513 steps, and at most 512 are unrolled: cut it"),
        ({"inputs": "X, W, R, B, lens", "more": ", int32[N] lens"}, "it has sequence_lens: pad the sequences"),
        ({"inputs": "X, W, R, B, , , , P", "more": ", float[1, 9] P"}, "it has peepholes"),
        ({"attributes": ", clip: float = 3.0"}, "clip is not unrolled: leave it out"),
        ({"attributes": ', activations: strings = ["Elu", "Tanh", "Tanh"]'}, "activations"),
    ],
)
def test_what_is_not_unrolled_is_named(arguments, message):
    model = ir.from_proto(model_of("LSTM", **arguments))
    X, Y = model.graph.inputs[0], model.graph.outputs[0]
    before = [node.op_type for node in model.graph]
    with pytest.raises(OnnxCbpError) as error:
        differentiate(model, {Y: ir.Value(name="dY", type=Y.type, shape=Y.shape)}, [X])
    assert str(error.value).startswith("node 'Y' (LSTM) cannot be differentiated: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [node.op_type for node in model.graph] == before


def test_an_op_without_a_rule_says_what_to_do_in_its_place():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    agraph (float[3] X, float c, int64 steps, bool go) => (float[3] Y) {
        Y = Loop (steps, go, X) <body = b (int64 i, bool on, float[3] x) => (bool more, float[3] y) {
            more = Identity (on)  y = Sin (x)
        }>
    }"""
    model = ir.from_proto(parse(text))
    X, Y = model.graph.inputs[0], model.graph.outputs[0]
    with pytest.raises(OnnxCbpError, match=r"^node 'Y': ai.onnx.Loop has no gradient rule, .* number of steps"):
        differentiate(model, {Y: ir.Value(name="dY", type=Y.type, shape=Y.shape)}, [X])
