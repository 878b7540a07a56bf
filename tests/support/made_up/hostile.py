"""A model whose names would run a script, were they ever taken for HTML."""

from __future__ import annotations

import onnx

from support.models import parse

_SET = "window.attacked=1"
#: By what bears the name.
HOSTILE = {
    "node": f'</script><script>{_SET}</script><img src=x onerror="{_SET}">',
    "parameter": f"--><svg onload={_SET}>\u2028${{title}}'\"&lt;",
    "value": f"]]><iframe src=javascript:{_SET}></iframe>",
}

_TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, L] x) => (float[N, 3, L] z, float[3] rm, float[3] rv)
<float[3] s = {1.0, 2.0, 3.0}, float[3] b = {0.0, 0.5, 1.0}, float[3] m = {0.0, 0.1, 0.2}, float[3] v = {1.0, 1.5, 2.0}>
{
    y, rm, rv = BatchNormalization <training_mode: int = 1> (x, s, b, m, v)
    r = Relu (y)
    z = BatchNormalization (r, s, b, m, v)
}
"""


def hostile_model() -> onnx.ModelProto:
    """A batch norm that trains with a Relu behind it, and "second" in inference form, which is left alone."""
    model = parse(_TEXT)
    first, _, second = model.graph.node
    first.name, second.name = HOSTILE["node"], "second"
    renamed = {"s": HOSTILE["parameter"], "y": HOSTILE["value"]}
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return model
