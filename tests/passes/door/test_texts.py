"""What is said in a model and is no UTF-8: a name is refused in one line, a remark is kept as far as it can be read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message

import onnx_cbp
from support.models import parse

WITH_EVERYTHING = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "a", doc_string: "b">
agraph (float[N, 3, 2, 2] x) => (float[N, 3, 2, 2] y, float[3] mean2, float[3] var2)
<float[3] scale = {1.0, 2.0, 3.0}, float[3] B = {0.0, 1.0, 2.0}, float[3] mean = {0.0, 1.0, 2.0},
 float[3] var = {1.0, 2.0, 3.0}, bool yes = {1}, float[N, 3, 2, 2] z>
{
    z, mean2, var2 = BatchNormalization <training_mode = 1> (x, scale, B, mean, var)
    d = local.Twice (z)
    c = Constant <value = float {2.0}> ()
    b = If (yes) <then_branch = t () => (float[N, 3, 2, 2] t0) { t0 = Relu (d) },
                  else_branch = e () => (float[N, 3, 2, 2] e0) { e0 = Neg (d) }>
    y = Mul (b, c)
}
<domain: "local", opset_import: ["" : 17]>
Twice (a) => (b) { b = Add (a, a) }
"""
MARK = "QQQQ"
NOT_UTF8 = b"Q\xff\xfeQ"
VERBS = {
    "inspect": onnx_cbp.inspect,
    "rewrite": onnx_cbp.rewrite,
    "finalize": onnx_cbp.finalize,
    "update_bn": lambda model: onnx_cbp.update_bn(model, [np.ones((2, 3, 2, 2), np.float32)]),
}
Place = tuple[str | int, ...]
#: Fields that say what an op, a value or an opset is.
NAMES = ("name", "input", "output", "op_type", "domain", "overload", "ref_attr_name")


def _places(message: Message, path: Place = ()) -> Iterator[Place]:
    """Where a message has a text, or could have one."""
    for field in message.DESCRIPTOR.fields:
        place, value = (*path, field.name), getattr(message, field.name)
        if field.type == field.TYPE_STRING:
            if isinstance(value, str) or len(value):
                yield place
        elif field.name == "metadata_props":
            yield (*place, "key")
            yield (*place, "value")
        elif field.type == field.TYPE_MESSAGE:
            if isinstance(value, Message):
                yield from _places(value, place) if message.HasField(field.name) else ()
            else:
                for index, each in enumerate(value):
                    yield from _places(each, (*place, index))


def _with_mark(model: onnx.ModelProto, place: Place) -> onnx.ModelProto:
    holder = model
    for step in place[:-1]:
        holder = holder[step] if isinstance(step, int) else getattr(holder, step)
    if place[-2:-1] == ("metadata_props",):
        holder = holder.add(key="key", value="value")
    value = getattr(holder, str(place[-1]))
    if isinstance(value, str):
        setattr(holder, str(place[-1]), MARK)
    else:
        value[0] = MARK
    return onnx.ModelProto.FromString(model.SerializeToString().replace(MARK.encode(), NOT_UTF8))


@pytest.mark.parametrize("verb", list(VERBS))
def test_names_are_refused_and_remarks_are_kept(verb):
    refused, kept = set(), set()
    for place in _places(parse(WITH_EVERYTHING)):
        model = _with_mark(parse(WITH_EVERYTHING), place)
        before = model.SerializeToString(deterministic=True)
        # The domain of a model and the name of a Constant's tensor are remarks: no op goes by them.
        is_name = place[-1] in NAMES and place != ("domain",) and place[-2:] != ("t", "name")
        if is_name:
            with pytest.raises(onnx_cbp.OnnxCbpError, match=r"\A.*\Z"):
                VERBS[verb](model)
            refused.add(place[-1])
        else:
            VERBS[verb](model)
            kept.add(place[-1])
        assert model.SerializeToString(deterministic=True) == before, place
    assert {"name", "input", "op_type"} <= refused
    assert {"doc_string", "denotation", "producer_name"} <= kept


def test_a_remark_says_what_can_be_read():
    model = parse(WITH_EVERYTHING)
    model.graph.node[-1].doc_string = MARK
    model = onnx.ModelProto.FromString(model.SerializeToString().replace(MARK.encode(), NOT_UTF8))
    assert onnx_cbp.rewrite(model).graph.node[-1].doc_string == "Q\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}Q"
