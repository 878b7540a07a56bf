"""The momentum of running statistics said anew, and the average over all batches."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_cbp
from onnx_cbp import OnnxCbpError
from support.models import FORWARD, TRAINING, parse
from support.ops import session

NATIVE = pytest.param("native", marks=pytest.mark.native)
SWITCHES = [{}, {"one_pass": False}, {"portable": True}, {"unbiased_running_var": True}, {"synchronize": True}]

#: Two batch norms and a module that is called twice: its second call goes on from the first.
THREE = """
<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, 2] x, float[2] m, float[2] v, float[2] p, float[2] q)
    => (float[N, 2] y, float[2] m1, float[2] v1, float[2] p2, float[2] q2)
<float[2] g = {{1, 2}}, float[2] b = {{3, 4}}>
{{
    a, m1, v1 = BatchNormalization <training_mode: int = 1, momentum: float = 0.8> (x, g, b, m, v)
    c = Relu (a)
    d, p1, q1 = BatchNormalization <training_mode: int = 1, momentum: float = {second}> (c, g, b, p, q)
    y, p2, q2 = BatchNormalization <training_mode: int = 1, momentum: float = {second}> (d, g, b, p1, q1)
}}"""
FIRST = ("m", "v")
SECOND = ("p", "q")


def three(second=0.9, opset=17, names=("first", "twice", "twice_1")):
    model = parse(THREE.format(second=second, opset=opset))
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    for node, name in zip(norms, names, strict=True):
        node.name = name
    return model


def batches(sizes=(4, 7, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(3.0, 2.0, (size, 2)).astype(np.float32) for size in sizes]


def followed(data, first, second, ddof=0):
    """Running statistics behind steps over batches, in float64; a momentum is a number or "cumulative"."""
    running = {name: np.full(2, value) for name, value in zip("mvpq", (5.0, 2.0, -4.0, 3.0), strict=True)}
    seen = {FIRST: 0, SECOND: 0}

    def move(names, momentum, x):
        n = seen[names] = seen[names] + 1
        kept = (n - 1) / n if momentum == "cumulative" else np.float64(np.float32(momentum))
        for name, new in zip(names, (x.mean(0), x.var(0, ddof=ddof)), strict=True):
            running[name] = running[name] * kept + new * (1 - kept)

    def normal(x):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * [1, 2] + [3, 4]

    for x in data:
        wide = x.astype(np.float64)
        move(FIRST, first, wide)
        c = np.maximum(normal(wide), 0)
        move(SECOND, second, c)
        move(SECOND, second, normal(c))
    return running, seen


def trained(model, data, backend="auto"):
    """The same as a session has them, and what counts batches."""
    run = session(model, backend)
    state = {name: np.full(2, value, np.float32) for name, value in zip("mvpq", (5.0, 2.0, -4.0, 3.0), strict=True)}
    counters = [value.name for value in model.graph.input if value.name.endswith("num_batches_tracked")]
    state |= {name: np.zeros(1, np.float32) for name in counters}
    for x in data:
        got = dict(zip([v.name for v in model.graph.output], run.run(None, {"x": x, **state}), strict=True))
        state = {"m": got["m1"], "v": got["v1"], "p": got["p2"], "q": got["q2"]}
        state |= {name: got[f"{name}_updated"] for name in counters}
    return state


def equal(got, want):
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-6, atol=2e-6, err_msg=name)


MOMENTA = {
    "a number": (0.25, 0.25, 0.25),
    "the batch's": (0, 0, 0),
    "what it was": (1.0, 1.0, 1.0),
    "cumulative": ("cumulative", "cumulative", "cumulative"),
    "by name": ({"first": 0.5}, 0.5, 0.9),
    "the first pattern that fits": ({"t*_1": 0.3, "twice": 0.3, "*": "cumulative"}, "cumulative", 0.3),
    "both": ({"twice*": "cumulative", "f*": 0.1}, 0.1, "cumulative"),
}


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("case", MOMENTA)
def test_running_statistics_follow_it(case, switches):
    momentum, first, second = MOMENTA[case]
    model = onnx_cbp.rewrite(three(), momentum=momentum, **switches)
    onnx.checker.check_model(model)
    want, seen = followed(batches(), first, second, ddof=int("unbiased_running_var" in switches))
    got = trained(model, batches(), None if "portable" in switches else "auto")
    equal(got, want)
    for name, key, kept in (("m", FIRST, first), ("p", SECOND, second)):
        counter = f"{name}.num_batches_tracked"
        assert (counter in got) == (kept == "cumulative")
        if counter in got:
            assert got[counter] == [seen[key]]


@pytest.mark.parametrize("backend", ["python", NATIVE])
@pytest.mark.parametrize("opset", [14, 15, 20])
def test_backends_and_opsets(backend, opset):
    model = onnx_cbp.rewrite(three(opset=opset), momentum="cumulative")
    equal(trained(model, batches(), backend), followed(batches(), "cumulative", "cumulative")[0])


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_an_empty_batch_counts_nothing(switches):
    model = onnx_cbp.rewrite(three(), momentum="cumulative", **switches)
    data = batches()
    empty = np.zeros((0, 2), np.float32)
    run = "portable" not in switches
    with_empty = trained(model, [empty, *data[:2], empty, data[2]], "auto" if run else None)
    want = trained(model, data, "auto" if run else None)
    for name, value in want.items():
        np.testing.assert_array_equal(with_empty[name], value)


def test_statistics_of_double_are_averaged_in_double():
    text = THREE.format(second=0.9, opset=17).replace("float[", "double[")
    model = onnx_cbp.rewrite(parse(text), momentum="cumulative")
    run = session(model, "auto")
    state = {"m": np.zeros(2), "v": np.ones(2), "p": np.zeros(2), "q": np.ones(2)}
    counters = {f"{name}.num_batches_tracked": np.zeros(1, np.float32) for name in "mp"}
    data = [x.astype(np.float64) for x in batches()]
    for x in data:
        got = dict(zip([v.name for v in model.graph.output], run.run(None, {"x": x, **state, **counters}), strict=True))
        state = {"m": got["m1"], "v": got["v1"], "p": got["p2"], "q": got["q2"]}
        counters = {name: got[f"{name}_updated"] for name in counters}
    np.testing.assert_allclose(state["m"], np.mean([x.mean(0) for x in data], axis=0), rtol=1e-6)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("momentum", [0.25, "cumulative", {"twice*": "cumulative"}])
def test_a_second_rewrite_changes_nothing(momentum, switches):
    once = onnx_cbp.rewrite(three(), momentum=momentum, **switches)
    again = {name: value for name, value in switches.items() if name != "portable"}
    assert onnx_cbp.rewrite(once, momentum=momentum, **again) == once
    assert onnx_cbp.rewrite(once, **again) == once


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_rewritten_one_gets_another_number(one_pass):
    rewritten = onnx_cbp.rewrite(three(), one_pass=one_pass)
    changed = onnx_cbp.rewrite(rewritten, momentum={"twice*": 0.25})
    equal(trained(changed, batches()), followed(batches(), 0.8, 0.25)[0])
    assert changed.graph == onnx_cbp.rewrite(three(), momentum={"twice*": 0.25}, one_pass=one_pass).graph


@pytest.mark.parametrize("one_pass", [True, False])
def test_what_averages_is_finalized_and_updated_as_any_other(one_pass):
    model = three()
    values = dict(zip("mvpq", (np.full(2, value, np.float32) for value in (5.0, 2.0, -4.0, 3.0)), strict=True))
    kept = [value for value in model.graph.input if value.name == "x"]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    rewritten = onnx_cbp.rewrite(model, momentum="cumulative", one_pass=one_pass)
    finalized = onnx_cbp.finalize(rewritten)
    assert [value.name for value in finalized.graph.input] == ["x"]
    assert [value.name for value in finalized.graph.output] == ["y"]
    x = batches((6,))[0]
    want = session(onnx_cbp.finalize(model), None).run(None, {"x": x})[0]
    np.testing.assert_allclose(session(finalized, None).run(None, {"x": x})[0], want, rtol=1e-6, atol=1e-6)
    got, plain = (onnx_cbp.update_bn(each, batches()) for each in (rewritten, model))
    statistics = [{t.name: numpy_helper.to_array(t) for t in each.graph.initializer} for each in (got, plain)]
    for name in values:
        np.testing.assert_allclose(statistics[0][name], statistics[1][name], rtol=1e-6)


@pytest.mark.parametrize(("momentum", "word"), [(1.0, "no step moves"), (0.0, "each step replaces")])
@pytest.mark.parametrize("options", [{}, {"one_pass": False}])
def test_a_momentum_that_moves_or_keeps_nothing_is_said(momentum, word, options, caplog):
    model = three(second=momentum)
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        rewritten = onnx_cbp.rewrite(model, **options)
    lines = [record.getMessage() for record in caplog.records if "momentum" in record.getMessage()]
    assert len(lines) == 1
    assert f"momentum {momentum:g} of 'twice', 'twice_1': {word}" in lines[0]
    assert "momentum='cumulative' (--momentum)" in lines[0]
    for shown in (onnx_cbp.inspect(model), onnx_cbp.inspect(rewritten)):
        assert [f"momentum is {momentum:g}: {word}" in f.explanation for f in shown] == [False, True, True]


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"momentum": {"twice*": 1}}, {"freeze": "twice*"}], ids=str)
def test_nothing_is_said_where_somebody_wants_it_so(options, caplog):
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        onnx_cbp.rewrite(three(second=1.0), **options)
    assert not caplog.records


def test_inspect_says_it_before_anything_trains():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x) => (float[N, 2] y)
<float[2] one = {1, 1}, float[2] zero = {0, 0}>
{ y = BatchNormalization <momentum: float = 1.0> (x, one, zero, zero, one) }""")
    assert "makes it train, but its momentum is 1: no step moves" in onnx_cbp.inspect(model)[0].explanation
    found = []
    onnx_cbp.rewrite(model, train="*", momentum=0.5, report=found.extend)
    assert "momentum is" not in found[0].explanation


BAD = [True, "0.9", -0.1, 1.5, float("nan"), [0.9], {"first": "sometimes"}, {"": 0.9}, {3: 0.9}, "Cumulative"]


@pytest.mark.parametrize("momentum", BAD, ids=str)
def test_what_is_no_momentum_is_refused(momentum):
    with pytest.raises(OnnxCbpError, match=r"^momentum: ") as error:
        onnx_cbp.rewrite(three(), momentum=momentum)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("momentum", [{"second": 0.9}, {"first": 0.5, "Twice": "cumulative"}])
def test_a_pattern_that_chooses_nothing_is_refused(momentum):
    with pytest.raises(OnnxCbpError, match="chooses no batch norm of the model"):
        onnx_cbp.rewrite(three(), momentum=momentum)


@pytest.mark.parametrize("momentum", [0.5, "cumulative"])
def test_what_does_not_train_has_none(momentum):
    model = three()
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:], node.attribute[:]
            node.input[3:] = ["m", "v"]
    del model.graph.output[1:]
    with pytest.raises(OnnxCbpError, match=r"moves running statistics: 'first' .* --train 'first' makes it train"):
        onnx_cbp.rewrite(model, momentum=momentum)
    assert onnx_cbp.rewrite(model, momentum=0.5, train="first")


@pytest.mark.parametrize("one_pass", [True, False])
def test_one_that_was_rewritten_otherwise_is_refused(one_pass):
    with pytest.raises(OnnxCbpError, match="rewritten without the cumulative average: start from the original"):
        onnx_cbp.rewrite(onnx_cbp.rewrite(three(), one_pass=one_pass), momentum="cumulative")
    averages = onnx_cbp.rewrite(three(), momentum="cumulative", one_pass=one_pass)
    with pytest.raises(OnnxCbpError, match="rewritten with the cumulative average: start from the original"):
        onnx_cbp.rewrite(averages, momentum=0.5)
    assert all("the average over all batches" in f.explanation for f in onnx_cbp.inspect(averages))


NOT_COUNTED = {
    "an artifact without a counter": (TRAINING, r"no parameter 'running_mean|no parameter 'num_batches_tracked'"),
    "outputs that are none": (FORWARD.replace(", float[3] new_mean, float[3] new_var)", ")"), "so no step keeps them"),
    "opset 6": (
        """<ir_version: 3, opset_import: ["" : 6]>
        agraph (float[N, 2, L] x, float[2] g, float[2] b, float[2] m, float[2] v)
            => (float[N, 2, L] y, float[2] m1, float[2] v1)
        { y, m1, v1, sm, sv = BatchNormalization (x, g, b, m, v) }""",
        "opset 6 does not broadcast",
    ),
    "a subgraph": (
        """<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 2] x, bool c, float[2] m, float[2] v) => (float[N, 2] y, float[2] n)
        <float[2] one = {1, 1}>
        {
            y, n = If (c) <
                then_branch = t () => (float[N, 2] a, float[2] m1) {
                    a, m1, v1 = BatchNormalization <training_mode: int = 1> (x, one, one, m, v) },
                else_branch = e () => (float[N, 2] b, float[2] m2) { b = Identity (x)  m2 = Identity (m) }
            >
        }""",
        "it stands in a subgraph",
    ),
}


@pytest.mark.parametrize("case", NOT_COUNTED)
def test_what_nothing_counts_is_refused(case):
    text, message = NOT_COUNTED[case]
    with pytest.raises(OnnxCbpError, match=f"cannot take a cumulative average: .*({message})") as error:
        onnx_cbp.rewrite(parse(text), momentum="cumulative")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("momentum", [0.3, 0.0])
def test_numbers_are_set_in_artifacts(momentum):
    rewritten = onnx_cbp.rewrite(parse(TRAINING), momentum=momentum)
    found = [a.f for node in rewritten.graph.node for a in node.attribute if a.name == "momentum"]
    assert found == [np.float32(momentum)]
