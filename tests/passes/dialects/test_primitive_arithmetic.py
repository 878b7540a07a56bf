"""Batch norms spelled in arithmetic: every spelling that exporters and people use, and what only looks like one."""

from __future__ import annotations

import itertools
import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_cbp import inspect, rewrite
from support.models import op_types
from support.ops import session

C = 3
EPSILON = 0.01
SHAPES = {"NCHW": (4, C, 5, 6), "NHWC": (4, 5, 6, C), "NCL": (4, C, 7), "NLC": (4, 7, C), "NC": (8, C)}


class Spelling:
    """Writes a graph in float64 node by node."""

    def __init__(self, layout: str, opset: int = 17) -> None:
        self.shape = SHAPES[layout]
        self.axis = layout.index("C")
        self.axes = [axis for axis in range(len(self.shape)) if axis != self.axis]
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names = (f"t{number}" for number in itertools.count())

    def op(self, op_type: str, *inputs: str, **attributes) -> str:
        output = next(self._names)
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"{op_type}_{output}", **attributes))
        return output

    def constant(self, value, dtype=np.float64, node: bool = False) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        if node:
            return self.op("Constant", value=tensor)
        tensor.name = next(self._names)
        self.initializers.append(tensor)
        return tensor.name

    def vector(self, values, how: str) -> str:
        """A vector of channels, as X broadcasts it."""
        behind = len(self.shape) - 1 - self.axis
        values = np.asarray(values, np.float64)
        if how == "shaped" or (behind == 0 and how != "full"):
            return self.constant(values.reshape(-1, *[1] * behind))
        full = [1] * self.axis + [-1] + [1] * behind
        if how == "full":
            return self.constant(values.reshape(full), node=True)
        return self.spread(self.constant(values), how)

    def spread(self, vector: str, how: str) -> str:
        """A value of shape [C] as X broadcasts it."""
        behind = len(self.shape) - 1 - self.axis
        if behind == 0:
            return vector
        full = [1] * self.axis + [-1] + [1] * behind
        if how == "Reshape":
            return self.op("Reshape", vector, self.constant(full, np.int64))
        return self.op("Unsqueeze", vector, self.constant(self.axes, np.int64))

    def mean(self, value: str, keepdims: int, axes=None) -> str:
        axes = self.axes if axes is None else axes
        if self.opset < 18:
            return self.op("ReduceMean", value, axes=axes, keepdims=keepdims)
        return self.op("ReduceMean", value, self.constant(axes, np.int64), keepdims=keepdims)

    def model(self, y: str, *more: str) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        shape = ["N", *self.shape[1:]]
        x, result = (helper.make_tensor_value_info(n, TensorProto.DOUBLE, shape) for n in ("x", "y"))
        graph = helper.make_graph(self.nodes, "spelled", [x], [result], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        graph_outputs = {value.name: value for value in inferred}
        model.graph.output.extend(graph_outputs[name] for name in more)
        onnx.checker.check_model(model)
        return model


def write(rng: random.Random, layout: str, *, running: bool, order: str) -> tuple[Spelling, str, tuple[str, str]]:
    """A batch norm in one of its many spellings: (graph, Y, (mean, var))."""
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    s = Spelling(layout, rng.choice([13, 17, 18]))
    how = lambda: rng.choice(["shaped", "full", "Reshape", "Unsqueeze"])  # noqa: E731
    two = lambda op, a, b: s.op(op, *rng.sample([a, b], 2))  # noqa: E731

    def square(value):
        return s.op("Mul", value, value) if rng.random() < 0.5 else s.op("Pow", value, s.constant(2.0))

    if running:
        mean, var = s.vector(numbers.normal(size=C), how()), s.vector(numbers.uniform(0.5, 2, C), how())
    else:
        keepdims = rng.randrange(2)
        flat = mean = s.mean("x", keepdims)
        if not keepdims:
            mean = s.spread(flat, rng.choice(["Reshape", "Unsqueeze"]))
        if rng.random() < 0.5:
            var = s.mean(square(s.op("Sub", "x", mean)), keepdims)
        else:
            var = s.op("Sub", s.mean(square("x"), keepdims), square(flat))
            if rng.random() < 0.5:
                cut = rng.choice(["Relu" if s.opset >= 14 else "Max", "Max", "Clip" if s.opset >= 12 else "Max"])
                var = s.op(cut, var) if cut == "Relu" else s.op(cut, var, s.constant(0.0))
        if not keepdims:
            var = s.spread(var, rng.choice(["Reshape", "Unsqueeze"]))
    shifted = two("Add", var, s.constant(rng.choice([EPSILON, [EPSILON]]), node=rng.random() < 0.5))
    root = rng.choice(["rsqrt", "pow", "sqrt", "one over sqrt"])
    r = s.op("Pow", shifted, s.constant(-0.5)) if root == "pow" else s.op("Sqrt", shifted)
    if root == "rsqrt":
        r = s.op("Reciprocal", r)
    elif root == "one over sqrt":
        r = s.op("Div", s.constant(1.0), r)
    times = lambda value: s.op("Div", value, r) if root == "sqrt" else two("Mul", value, r)  # noqa: E731
    scale = s.vector(numbers.uniform(0.5, 2, C), how()) if rng.random() < 0.8 else None
    B = s.vector(numbers.normal(size=C), how()) if rng.random() < 0.8 else None
    if order == "centred first":
        y = times(s.op("Sub", "x", mean))
        y = y if scale is None else two("Mul", y, scale)
    else:
        slope = times(s.constant(np.ones([])) if scale is None else scale)
        if order == "slope":
            y = two("Mul", s.op("Sub", "x", mean), slope)
        else:
            data, moved = two("Mul", "x", slope), two("Mul", mean, slope)
            if order == "offset":
                offset = s.op("Neg", moved) if B is None else s.op("Sub", B, moved)
                return s, two("Add", data, offset), (mean, var)
            y = s.op("Sub", data, moved)
    return s, y if B is None else two("Add", y, B), (mean, var)


def data(layout: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, SHAPES[layout])


def assert_same(original, rewritten, layout, seed):
    feeds = {"x": data(layout, seed)}
    want = session(original, None).run(None, feeds)
    for got, expected in zip(session(rewritten, "auto").run(None, feeds), want, strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


ORDERS = ("centred first", "slope", "offset", "slope of both")


@pytest.mark.product
@pytest.mark.parametrize(("layout", "order"), list(itertools.product(SHAPES, ORDERS)))
def test_every_spelling_of_batch_statistics(layout, order):
    for seed in range(6):
        print(f"seed {seed}")
        s, y, _ = write(random.Random(f"{layout} {order} {seed}"), layout, running=False, order=order)
        model = s.model(y)
        (found,) = inspect(model)
        assert (found.form, found.rewritten) == ("arithmetic (batch statistics)", True)
        rewritten = rewrite(model)
        onnx.checker.check_model(rewritten, full_check=True)
        kinds = set(op_types(rewritten))
        assert "BatchNormTrain" in kinds
        assert kinds <= {"BatchNormTrain", "Reshape", "Unsqueeze", "Constant", "Identity"}, "the rest is unused"
        assert_same(model, rewritten, layout, seed)
        again = rewrite(rewritten)
        assert again.SerializeToString(deterministic=True) == rewritten.SerializeToString(deterministic=True)


@pytest.mark.product
@pytest.mark.parametrize(("layout", "order"), list(itertools.product(SHAPES, ORDERS)))
def test_every_spelling_of_running_statistics(layout, order):
    for seed in range(6):
        print(f"seed {seed}")
        s, y, _ = write(random.Random(f"{layout} {order} {seed}"), layout, running=True, order=order)
        model = s.model(y)
        (found,) = inspect(model)
        assert (found.form, found.rewritten) == ("arithmetic (running statistics)", False)
        assert rewrite(model) == model
        rewritten = rewrite(model, train="*")
        assert "BatchNormTrainUpdate" in op_types(rewritten)
        assert "Transpose" not in op_types(rewritten)
        x = data(layout, seed)
        mean, std = x.mean(tuple(s.axes), keepdims=True), np.sqrt(x.var(tuple(s.axes), keepdims=True) + EPSILON)
        (got,) = session(rewritten, "auto").run(None, {"x": x})
        # Whatever scale and B are: the same affine function of x in both.
        flat = np.moveaxis((x - mean) / std, s.axis, 0).reshape(C, -1)
        for normal, result in zip(flat, np.moveaxis(got, s.axis, 0).reshape(C, -1), strict=True):
            slope, offset = np.polyfit(normal, result, 1)
            np.testing.assert_allclose(slope * normal + offset, result, rtol=1e-9, atol=1e-9)
            assert 0.5 <= slope <= 2


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("one_pass", [True, False])
def test_running_averages_go_on_reading_the_statistics(layout, before, one_pass):
    """moving * 0.9 + batch * 0.1, whether those nodes stand before the end of the batch norm or behind it."""
    for seed in range(4):
        print(f"seed {seed}")
        s, y, statistics = write(random.Random(seed), layout, running=False, order=ORDERS[seed])
        number = len(s.nodes)
        outputs = []
        for value in statistics:
            kept = s.op(
                "Mul", s.constant(np.full(C, 0.9).reshape(-1, *[1] * (len(s.shape) - 1 - s.axis))), s.constant(2.0)
            )
            outputs.append(s.op("Add", kept, s.op("Mul", value, s.constant(0.1))))
        if before:
            new = s.nodes[number:]
            s.nodes[number - 1 : number - 1] = new
            del s.nodes[number - 1 + len(new) + 1 :]
        model = s.model(y, *outputs)
        rewritten = rewrite(model, one_pass=one_pass)
        onnx.checker.check_model(rewritten)
        assert ("BatchNormTrain" if one_pass else "ChannelNormalize") in op_types(rewritten)
        if not before:
            assert "ReduceMean" not in op_types(rewritten)
        assert_same(model, rewritten, layout, seed)


def spelled(s: Spelling, mean: str, var: str, x: str = "x") -> str:
    r = s.op("Reciprocal", s.op("Sqrt", s.op("Add", var, s.constant(EPSILON))))
    y = s.op("Mul", s.op("Mul", s.op("Sub", x, mean), r), s.vector(np.arange(1.0, C + 1), "shaped"))
    return s.op("Add", y, s.vector(np.arange(0.0, C), "shaped"))


def variance(s: Spelling, mean: str, axes) -> str:
    centred = s.op("Sub", "x", mean)
    return s.mean(s.op("Mul", centred, centred), 1, axes)


@pytest.mark.parametrize(
    ("layout", "axes"),
    [("NCHW", [2, 3]), ("NCHW", [1, 2, 3]), ("NHWC", [3]), ("NHWC", [1, 2]), ("NLC", [2]), ("NCHW", [0, 1, 2, 3])],
    ids=["instance", "layer", "layer, last axis", "instance, last axis", "layer, rank 3", "all axes"],
)
def test_other_axes_are_no_batch_norm(layout, axes):
    s = Spelling(layout)
    mean = s.mean("x", 1, axes)
    model = s.model(spelled(s, mean, variance(s, mean, axes)))
    assert inspect(model) == []
    assert rewrite(model) == model


def _of_another(s: Spelling) -> tuple[str, str]:
    mean = s.mean(s.op("Mul", "x", s.constant(2.0)), 1)
    return mean, variance(s, mean, None)


def _unbiased(s: Spelling) -> tuple[str, str]:
    mean = s.mean("x", 1)
    return mean, s.op("Mul", variance(s, mean, None), s.constant(1.01))


def _of_second_moment(s: Spelling) -> tuple[str, str]:
    return s.mean("x", 1), s.mean(s.op("Mul", "x", "x"), 1)


def _negative(s: Spelling) -> tuple[str, str]:
    mean = s.mean("x", 1)
    squares = s.op("Mul", mean, mean)
    return mean, s.op("Add", s.mean(s.op("Mul", "x", "x"), 1), squares)


def _one_frozen(s: Spelling) -> tuple[str, str]:
    return s.vector(np.ones(C), "shaped"), variance(s, s.mean("x", 1), None)


def _other_axis(s: Spelling) -> tuple[str, str]:
    mean = s.mean("x", 1)
    return mean, variance(s, mean, [0, 1, 2])


def _largest(s: Spelling) -> tuple[str, str]:
    return s.op("ReduceMax", "x", axes=s.axes, keepdims=1), s.vector(np.ones(C), "shaped")


@pytest.mark.parametrize(
    "statistics", [_of_another, _unbiased, _of_second_moment, _negative, _one_frozen, _other_axis, _largest]
)
def test_near_misses(statistics):
    s = Spelling("NCHW")
    model = s.model(spelled(s, *statistics(s)))
    assert inspect(model) == []
    assert rewrite(model) == model


def test_vectors_along_another_axis_are_no_scale():
    s = Spelling("NCHW")
    mean = s.mean("x", 1)
    r = s.op("Reciprocal", s.op("Sqrt", s.op("Add", variance(s, mean, None), s.constant(EPSILON))))
    normal = s.op("Mul", s.op("Sub", "x", mean), r)
    model = s.model(s.op("Mul", normal, s.constant(np.arange(1.0, 7))))
    rewritten = rewrite(model)
    assert op_types(rewritten).count("Mul") == 1, "what scales columns stays"
    assert_same(model, rewritten, "NCHW", 0)


def test_a_normalised_value_that_others_read_is_a_batch_norm_without_scale():
    s = Spelling("NCHW")
    mean = s.mean("x", 1)
    r = s.op("Reciprocal", s.op("Sqrt", s.op("Add", variance(s, mean, None), s.constant(EPSILON))))
    normal = s.op("Mul", s.op("Sub", "x", mean), r)
    y = s.op("Add", s.op("Mul", normal, s.vector([1.0, 2.0, 3.0], "shaped")), s.vector([4.0, 5.0, 6.0], "shaped"))
    model = s.model(y, normal)
    rewritten = rewrite(model)
    assert len(inspect(model)) == len(inspect(rewritten)) == 1
    assert_same(model, rewritten, "NCHW", 0)


def test_one_whose_centred_data_others_read_is_left_alone():
    s = Spelling("NCHW")
    mean = s.mean("x", 1)
    centred = s.op("Sub", "x", mean)
    r = s.op("Reciprocal", s.op("Sqrt", s.op("Add", s.mean(s.op("Mul", centred, centred), 1), s.constant(EPSILON))))
    y = s.op("Mul", centred, s.op("Mul", r, s.vector([1.0, 2.0, 3.0], "shaped")))
    model = s.model(y, s.op("Abs", centred))
    (found,) = inspect(model)
    assert (found.rewritten, f"'{centred}' inside it is also read by node 'Abs_" in found.explanation) == (False, True)
    assert rewrite(model) == model


def test_several_in_a_row_and_a_residual():
    s = Spelling("NCHW")
    first = spelled(s, mean := s.mean("x", 1), variance(s, mean, None))
    skip = s.op("Add", first, "x")
    mean = s.mean(skip, 1)
    centred = s.op("Sub", skip, mean)
    second = spelled(s, mean, s.mean(s.op("Mul", centred, centred), 1), skip)
    model = s.model(s.op("Relu", second))
    rewritten = rewrite(model)
    assert op_types(rewritten).count("BatchNormTrain") == 2
    assert_same(model, rewritten, "NCHW", 0)


def test_an_instance_norm_of_one_sample_is_none():
    """Its statistics have the shape of a batch norm's."""
    s = Spelling("NCHW")
    s.shape = (1, C, 5, 6)
    mean = s.mean("x", 1, [2, 3])
    model = s.model(spelled(s, mean, variance(s, mean, [2, 3])))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert inspect(model) == []


@pytest.mark.parametrize("trains", [True, False])
def test_vectors_that_make_channels_of_one_are_no_batch_norm(trains):
    """A grey image made a picture of four colours."""
    s = Spelling("NCHW")
    mean = s.mean("x", 1) if trains else s.vector(np.arange(1.0, C + 1), "shaped")
    centred = s.op("Sub", "x", mean)
    squares = s.op("Mul", centred, centred)
    var = s.mean(squares, 1) if trains else s.vector(np.arange(2.0, C + 2), "shaped")
    r = s.op("Reciprocal", s.op("Sqrt", s.op("Add", var, s.constant(EPSILON))))
    y = s.op("Mul", s.op("Mul", centred, r), s.vector(np.arange(1.0, C + 1), "shaped"))
    model = s.model(y)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    assert inspect(model) == []
    assert rewrite(model) == model
