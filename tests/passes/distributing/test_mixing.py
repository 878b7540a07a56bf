"""`synchronize` refuses what mixes the samples of a batch and is no batch norm that it knows, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_cbp import OnnxCbpError, inspect, rewrite
from support.made_up.made_statistics import EPSILON, OTHERS, C, Graph, tensorflow
from support.models import FORWARD, parse
from support.training import MODELS


def normalised(g: Graph, X: str, mean: str, var: str) -> str:
    shape = g.integers([C, *[1] * (g.rank - 2)])
    std = g.op("Sqrt", g.op("Add", var, g.constant(EPSILON)))
    return g.op("Div", g.op("Sub", X, g.op("Reshape", mean, shape)), g.op("Reshape", std, shape))


def half_of_the_batch(g: Graph) -> str:
    """Ghost batch norm: statistics of each of two parts."""
    parts = g.op("Reshape", "x", g.integers([2, -1, *g.shape[1:]]))
    mean = g.mean(parts, [1, 3, 4], 1)
    return g.op("Reshape", g.op("Sub", parts, mean), g.integers([-1, *g.shape[1:]]))


GRAM = "nm,md->nd"


def f(g: Graph) -> str:
    return g.op("Flatten", "x")


def part(g: Graph, start: int, end: int) -> str:
    return g.op("Slice", "x", g.integers([start]), g.integers([end]), g.integers([0]))


def halves(g: Graph, op_type: str = "Split", axis: int = 0) -> str:
    """The difference of two parts, for each of them."""
    if op_type == "Split":
        g.nodes.append(helper.make_node("Split", ["x"], ["left", "right"], name="split", axis=axis))
    else:
        parts = g.op("SplitToSequence", "x", g.integers([2, 4] if axis == 0 else [2, 2]), axis=axis)
        g.nodes += [helper.make_node("SequenceAt", [parts, g.integers(i)], [name]) for i, name in enumerate(LEFT_RIGHT)]
    return g.op("Concat", "left", "right", "left", axis=axis)


LEFT_RIGHT = ("left", "right")


def scanned(g: Graph, axis: int, *, adds: bool, last: bool) -> str:
    """A Scan along an axis: what is added up on the way, or each by itself; and of it the state, or all."""
    shape = [size for index, size in enumerate(g.shape) if index != axis]
    fed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("before", "one")]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("after", "each")]
    nodes = [
        helper.make_node("Add", ["before", "one"], ["after"]),
        helper.make_node("Neg", ["after" if adds else "one"], ["each"]),
    ]
    body = helper.make_graph(nodes, "body", fed, results)
    first = g.op("Mul", g.op("Gather", "x", g.integers(0), axis=axis), g.constant(0.0)) if axis else None
    first = first or g.constant(np.zeros(shape))
    attributes = {"body": body, "num_scan_inputs": 1, "scan_input_axes": [axis], "scan_output_axes": [axis]}
    g.nodes.append(helper.make_node("Scan", [first, "x"], ["state", "all"], name="scan", **attributes))
    return g.op("Sub", "x", "state") if last else "all"


def counted(g: Graph, op_type: str) -> str:
    """The samples added up in a row each is sent to."""
    flat = g.op("Flatten", "x")
    first = g.op("Cast", g.op("Mul", part_of(g, flat), g.constant(0.0)), to=TensorProto.INT64)
    zeros = g.constant(np.zeros((1, 24)))
    if op_type == "ScatterND":
        rows = g.op("ScatterND", zeros, first, flat, reduction="add")
    else:
        every = g.op("Cast", g.op("Mul", flat, g.constant(0.0)), to=TensorProto.INT64)
        rows = g.op("ScatterElements", zeros, every, flat, axis=0, reduction="add")
    return g.op("Sub", flat, rows)


def part_of(g: Graph, flat: str) -> str:
    """The first number of each sample."""
    return g.op("Slice", flat, g.integers([0]), g.integers([1]), g.integers([1]))


#: What takes samples together and gives each something of it.
REFUSED = {
    "centred": lambda g: g.op("Sub", "x", g.mean("x", [0], 1)),
    "largest of all": lambda g: g.op("Div", "x", g.op("ReduceMax", "x", axes=[0, 1, 2, 3], keepdims=0)),
    "without keepdims": lambda g: g.op("Mul", "x", g.mean("x", [0], 0)),
    "transposed": lambda g: g.op("Sub", t := g.op("Transpose", "x", perm=[1, 0, 2, 3]), g.mean(t, [1, 2, 3], 1)),
    "softmax over samples": lambda g: g.op("Softmax", "x", axis=0),
    "running sum": lambda g: g.op("CumSum", "x", g.integers(0)),
    "similarity": lambda g: g.op(
        "MatMul", g.op("Softmax", g.op("MatMul", f := g.op("Flatten", "x"), g.op("Transpose", f)), axis=1), f
    ),
    "one sample": lambda g: g.op("Sub", "x", g.op("Gather", "x", g.integers(0), axis=0)),
    "halves": half_of_the_batch,
    "by an op": lambda g: g.op("MeanVarianceNormalization", "x", axes=[0, 2, 3]),
    "by an op, by default": lambda g: g.op("MeanVarianceNormalization", "x"),
    "beside what inference cannot follow": lambda g: g.op(
        "MeanVarianceNormalization", g.op("Sub", h := g.op("Relu", "x"), g.mean(h, [0], 1)), axes=[2, 3]
    ),
    "its result": lambda g: g.mean("x", [0, 2, 3], 0),
    "einsum": lambda g: g.op("Sub", "x", g.op("Einsum", "x", equation="nchw->chw")),
    "einsum of two": lambda g: g.op("Einsum", g.op("Einsum", "x", "x", equation="nchw,mchw->nm"), f(g), equation=GRAM),
    "einsum, implicit": lambda g: g.op("Mul", "x", g.op("Einsum", "x", "x", equation="n...w, n...w")),
    "einsum over an ellipsis": lambda g: g.op("Mul", "x", g.op("Einsum", "x", equation="...hw->hw")),
    "neighbours among samples": lambda g: g.op("LRN", g.op("Transpose", "x", perm=[1, 0, 2, 3]), size=3),
    "the first sample": lambda g: g.op("Sub", "x", g.op("Slice", "x", *map(g.integers, ([0], [1], [0])))),
    "reversed": lambda g: g.op("Sub", "x", g.op("Slice", "x", *map(g.integers, ([-1], [-100], [-4], [-1])))),
    "all but the last": lambda g: g.op("Slice", "x", g.integers([0, 0]), g.integers([-1, 100])),
    "rolled": lambda g: g.op("Sub", "x", g.op("Concat", part(g, 1, 100), part(g, 0, 1), axis=0)),
    "two parts": halves,
    "two parts of a sequence": lambda g: halves(g, "SplitToSequence"),
    "chosen samples": lambda g: g.op("Sub", "x", g.op("Gather", "x", g.integers([0]))),
    "chosen elements": lambda g: g.op(
        "Sub", f := g.op("Flatten", "x"), g.op("GatherElements", f, g.integers([[0] * 24]), axis=0)
    ),
    "added up by a Scan": lambda g: scanned(g, 0, adds=True, last=True),
    "added up on the way of a Scan": lambda g: scanned(g, 0, adds=True, last=False),
    "added up by ScatterND": lambda g: counted(g, "ScatterND"),
    "added up by ScatterElements": lambda g: counted(g, "ScatterElements"),
    "between samples": lambda g: g.op("Resize", "x", "", g.constant([2.0, 1.0, 1.0, 1.0]), mode="linear"),
    "padded with samples": lambda g: g.op("Pad", "x", g.integers([1, 0, 0, 0, 0, 0, 0, 0]), mode="reflect"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("with_batch_norm", [False, True])
def test_what_mixes_samples_is_refused(kind, with_batch_norm):
    g = Graph(opset=17)
    y = REFUSED[kind](g)
    outputs = [y, *([g.batch_norm("x", *tensorflow(g, "x"))] if with_batch_norm else [])]
    model = g.model(*outputs)
    with pytest.raises(
        OnnxCbpError, match=r"node '.+' \(\w+\) takes '.+' together over the samples of a batch"
    ) as caught:
        rewrite(model, synchronize=True)
    assert "\n" not in str(caught.value)
    rewrite(model)


@pytest.mark.parametrize("statistics", OTHERS, ids=lambda function: function.__name__)
def test_a_batch_norm_in_arithmetic_that_is_not_known_is_refused(statistics):
    g = Graph()
    model = g.model(normalised(g, "x", *statistics(g, "x")))
    assert inspect(model) == []
    with pytest.raises(OnnxCbpError, match="together over the samples of a batch"):
        rewrite(model, synchronize=True)


def as_float(g: Graph, value: str) -> str:
    return g.op("Cast", value, to=TensorProto.FLOAT)


def sizes(g: Graph, value: str = "x") -> str:
    return g.op("Shape", value)


def size(g: Graph, index: int, value: str = "x") -> str:
    return g.op("Gather", sizes(g, value), g.integers(index))


def expanded(g: Graph) -> str:
    """As exporters write expand with -1 for a size that stays."""
    wanted = g.op("Concat", g.op("Unsqueeze", size(g, 0), g.integers([0])), g.integers([-1, 3, 2]), axis=0)
    ones = g.op("ConstantOfShape", g.op("Shape", wanted), value=numpy_helper.from_array(np.array([1])))
    wanted = g.op("Where", g.op("Equal", wanted, g.integers(-1)), ones, wanted)
    return g.op("Mul", "x", g.op("Expand", g.constant(np.ones((1, C, 1, 1))), wanted))


def windows(g: Graph) -> str:
    """Windows as samples, and the samples by division again, as exporters of window attention write it."""
    parts = g.op("Reshape", "x", g.integers([-1, C, 3]))
    number = g.op("Div", as_float(g, size(g, 0, parts)), g.constant(2.0))
    number = g.op("Unsqueeze", g.op("Cast", number, to=TensorProto.INT64), g.integers([0]))
    return g.op("Reshape", g.op("Relu", parts), g.op("Concat", number, g.integers([C, 3, 2]), axis=0))


def size_of_batch_as_output(g: Graph) -> str:
    return as_float(g, g.op("Mul", sizes(g), g.integers([2])))


#: What calculates with the number of samples.
SIZED = {
    "divided": lambda g: g.op("Div", "x", as_float(g, size(g, 0))),
    "by Size": lambda g: g.op("Mul", "x", g.op("Reciprocal", as_float(g, g.op("Size", "x")))),
    "of another value": lambda g: g.op("Sub", "x", as_float(g, size(g, -2, g.op("Relu", g.op("Flatten", "x"))))),
    "of a transposed one": lambda g: g.op(
        "Div", "x", as_float(g, size(g, 1, g.op("Transpose", "x", perm=[1, 0, 2, 3])))
    ),
    "by Slice": lambda g: g.op(
        "Div", "x", as_float(g, g.op("Slice", sizes(g), *map(g.integers, ([-4], [-3], [0], [1]))))
    ),
    "by Shape's end": lambda g: g.op("Div", "x", as_float(g, g.op("Shape", "x", end=1))),
    "number of elements": lambda g: g.op("Div", "x", as_float(g, g.op("ReduceProd", sizes(g), axes=[0], keepdims=0))),
    "by Split": lambda g: split_sizes(g, 0),
    "with all sizes": lambda g: g.op("Mul", "x", as_float(g, g.op("Reshape", sizes(g), g.integers([1, 4, 1, 1])))),
    "into a weight": lambda g: g.op(
        "MatMul", g.op("Flatten", "x"), g.op("Div", g.constant(np.ones((24, 5))), as_float(g, size(g, 0)))
    ),
    "before a sum": lambda g: g.op("ReduceSum", g.op("Div", "x", as_float(g, size(g, 0))), keepdims=0),
    "condition": lambda g: g.op("Where", g.op("Greater", size(g, 0), g.integers(2)), "x", g.op("Neg", "x")),
    "concatenated": lambda g: g.op(
        "Div",
        "x",
        as_float(
            g,
            g.op(
                "Gather",
                g.op("Concat", g.integers([7]), sizes(g), axis=0),
                g.integers(1),
            ),
        ),
    ),
}


def split_sizes(g: Graph, index: int) -> str:
    outputs = [f"size{axis}" for axis in range(4)]
    g.nodes.append(helper.make_node("Split", [sizes(g)], outputs, name="split"))
    return g.op("Div", "x", as_float(g, outputs[index]))


#: What asks for a size and keeps to what each sample has of its own.
NOT_SIZED = {
    "channels": lambda g: g.op("Div", "x", as_float(g, size(g, 1))),
    "last": lambda g: g.op("Div", "x", g.op("Sqrt", as_float(g, size(g, -1)))),
    "by Slice": lambda g: g.op("Div", "x", as_float(g, g.op("Slice", sizes(g), *map(g.integers, ([1], [2]))))),
    "by Shape's start": lambda g: g.op("Div", "x", as_float(g, g.op("Shape", "x", start=3))),
    "places": lambda g: g.op(
        "Div",
        g.sum("x", [2, 3], 1),
        as_float(g, g.op("ReduceProd", g.op("Gather", sizes(g), g.integers([2, 3])), axes=[0], keepdims=0)),
    ),
    "by Split": lambda g: split_sizes(g, 2),
    "of a weight": lambda g: g.op("Div", "x", as_float(g, size(g, 0, g.constant(np.ones((6, 2)))))),
    "concatenated": lambda g: g.op(
        "Div",
        "x",
        as_float(g, g.op("Gather", g.op("Concat", sizes(g), g.integers([7]), axis=0), g.integers([4]))),
    ),
    "reshaped": lambda g: g.op(
        "Reshape", "x", g.op("Concat", g.op("Unsqueeze", size(g, 0), g.integers([0])), g.integers([-1]), axis=0)
    ),
    "expanded": expanded,
    "windows": windows,
    "zeros": lambda g: g.op("Add", "x", g.op("ConstantOfShape", sizes(g))),
    "all of them": lambda g: g.op("Slice", "x", g.integers([0]), g.op("Shape", "x", end=1), g.integers([0])),
    "loss": lambda g: g.op("Div", g.op("ReduceSum", g.square("x"), keepdims=0), as_float(g, size(g, 0))),
    "penalty": lambda g: g.op("Div", g.op("ReduceSum", g.constant(np.ones(3)), keepdims=0), as_float(g, size(g, 0))),
    "told": size_of_batch_as_output,
}


def attention(g: Graph) -> str:
    """Of the places of each sample, by batches of matrices."""
    places = g.op("Transpose", g.op("Reshape", "x", g.integers([0, C, -1])), perm=[0, 2, 1])
    scores = g.op("MatMul", places, g.op("Transpose", places, perm=[0, 2, 1]))
    return g.op("MatMul", g.op("Softmax", scores, axis=-1), places)


def over_time(g: Graph) -> str:
    """Steps and samples as one axis, and the mean over steps afterwards."""
    steps = g.op("Transpose", "x", perm=[2, 0, 1, 3])
    flat = g.op("Reshape", steps, g.integers([-1, C * g.shape[3]]))
    h = g.op("MatMul", flat, g.constant(np.ones((C * g.shape[3], 5))))
    return g.mean(g.op("Reshape", h, g.integers([g.shape[2], -1, 5])), [0], 0)


def over_time_second(g: Graph) -> str:
    """The same with the samples first."""
    steps = g.op("Transpose", "x", perm=[0, 2, 1, 3])
    flat = g.op("Reshape", steps, g.integers([-1, C * g.shape[3]]))
    h = g.op("MatMul", flat, g.constant(np.ones((C * g.shape[3], 5))))
    return g.mean(g.op("Reshape", h, g.integers([-1, g.shape[2], 5])), [1], 0)


def mean_loss(g: Graph) -> str:
    return g.mean(g.square("x"), [0, 1, 2, 3], 0)


def masked_loss(g: Graph) -> str:
    mask = g.op("Cast", g.op("Greater", "x", g.constant(0.0)), to=TensorProto.FLOAT)
    total = g.op("ReduceSum", g.op("Mul", "x", mask), keepdims=0)
    return g.op("Div", total, g.op("ReduceSum", mask, keepdims=0))


#: What keeps samples apart, and losses.
KEPT = {
    "layer norm": lambda g: g.op("Sub", "x", g.mean("x", [1, 2, 3], 1)),
    "instance norm": lambda g: g.op("InstanceNormalization", "x", g.constant(np.ones(C)), g.constant(np.ones(C))),
    "group norm": lambda g: g.op(
        "Reshape",
        g.op("Sub", p := g.op("Reshape", "x", g.integers([0, 2, -1])), g.mean(p, [2], 1)),
        g.op("Shape", "x"),
    ),
    "squeeze and excite": lambda g: g.op("Mul", "x", g.op("Sigmoid", g.op("GlobalAveragePool", "x"))),
    "shuffled channels": lambda g: g.op(
        "Reshape",
        g.op("Transpose", g.op("Reshape", "x", g.integers([-1, 2, 2, 3, 2])), perm=[0, 2, 1, 3, 4]),
        g.integers([-1, 4, 3, 2]),
    ),
    "attention": attention,
    "over time": over_time,
    "over time, samples first": over_time_second,
    "dropout": lambda g: g.op("Dropout", "x", g.constant(0.5), g.constant(True, bool)),
    "classifier": lambda g: g.op("Softmax", g.op("Flatten", "x"), axis=1),
    "of a weight": lambda g: g.op("Mul", "x", g.op("ReduceMax", g.constant(np.ones((3, 4))), keepdims=0)),
    "mean loss": mean_loss,
    "masked loss": masked_loss,
    "einsum": lambda g: g.op("Einsum", "x", "x", equation="nchw,ndhw->ncd"),
    "einsum, implicit": lambda g: g.op("Einsum", "x", g.constant(np.ones((4, 2))), equation="...w,wk"),
    "einsum over an ellipsis": lambda g: g.op("Einsum", "x", equation="nc...->nc"),
    "neighbouring channels": lambda g: g.op("LRN", "x", size=3),
    "a part of each sample": lambda g: g.op("Slice", "x", *map(g.integers, ([1, 0], [3, -1], [1, -1]))),
    "all samples": lambda g: g.op("Slice", "x", *map(g.integers, ([0, 1], [2**31 - 1, 3], [0, 2]))),
    "two views": lambda g: g.op("Slice", g.op("Concat", "x", "x", axis=0), *map(g.integers, ([6], [12], [0]))),
    "first channel": lambda g: g.op("Gather", "x", g.integers(0), axis=1),
    "chosen channels": lambda g: g.op("Gather", "x", g.integers([2, 0]), axis=1),
    "two parts of channels": lambda g: halves(g, axis=1),
    "two parts of channels in a sequence": lambda g: halves(g, "SplitToSequence", axis=1),
    "each by a Scan": lambda g: scanned(g, 0, adds=False, last=False),
    "places by a Scan": lambda g: scanned(g, 2, adds=True, last=False),
    "enlarged": lambda g: g.op("Resize", "x", "", g.constant([1.0, 1.0, 2.0, 2.0]), mode="nearest"),
    "padded": lambda g: g.op("Pad", "x", g.integers([0, 0, 1, 1, 0, 0, 1, 1])),
    "a slice that is written": lambda g: g.op(
        "ScatterND", g.op("Flatten", "x"), g.integers([[0], [1]]), g.constant(np.zeros((2, 24)))
    ),
    "one of several, marked": lambda g: g.op(
        "ScatterElements",
        f := g.op("Flatten", "x"),
        g.op("Cast", g.op("Abs", part_of(g, f)), to=TensorProto.INT64),
        part_of(g, f),
        axis=1,
    ),
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["mean", "centred", "softmax"])
def test_what_a_function_mixes_is_refused_where_it_is_called(kind, deep):
    bodies = {
        "mean": "Y = ReduceMean <axes = [0, 2, 3]> (X)",
        "centred": "m = ReduceMax <axes = [0]> (X)  Y = Sub (X, m)",
        "softmax": "Y = Softmax <axis = 0> (X)",
    }
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        agraph (float[N, 4, 3, 2] x) => (float[N, 4, 3, 2] y) {{ m = l.{"G" if deep else "F"} (x)  y = Sub (x, m) }}
        <domain: "l", opset_import: ["" : 17]> F (X) => (Y) {{ {bodies[kind]} }}
        <domain: "l", opset_import: ["" : 17, "l" : 1]> G (X) => (Y) {{ Y = l.F (X) }}"""
    )
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(OnnxCbpError, match="together over the samples of a batch"):
        rewrite(model, synchronize=True)
    assert rewrite(model) == model


def test_a_function_that_nobody_looks_into_is_refused():
    """Softmax of opset 11 flattens, so it cannot be one of opset 17; here, from axis 0 on, it mixes samples."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        agraph (float[N, 4] x) => (float[N, 4] y) { y = l.F (x) }
        <domain: "l", opset_import: ["" : 11]> F (X) => (Y) { Y = Softmax <axis = 0> (X) }"""
    )
    assert rewrite(model) == model
    with pytest.raises(OnnxCbpError, match=r"^the function 'l::F' cannot be inlined: node .*: convert the model"):
        rewrite(model, synchronize=True)


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("batch", ["N", 6])
def test_what_keeps_samples_apart_is_not(kind, batch):
    g = Graph(opset=17, batch=batch)
    model = g.model(KEPT[kind](g))
    assert rewrite(model, synchronize=True) == model


@pytest.mark.parametrize("batch", ["N", 6])
@pytest.mark.parametrize("kind", SIZED)
def test_what_calculates_with_the_number_of_samples_is_refused(kind, batch):
    g = Graph(opset=17, batch=batch)
    model = g.model(SIZED[kind](g))
    with pytest.raises(
        OnnxCbpError, match=r"node '.+' \(\w+\) calculates with the number of samples in a batch"
    ) as caught:
        rewrite(model, synchronize=True)
    assert "\n" not in str(caught.value)
    rewrite(model)


@pytest.mark.parametrize("batch", ["N", 6])
@pytest.mark.parametrize("kind", NOT_SIZED)
def test_other_sizes_and_what_only_shapes_read_are_not(kind, batch):
    g = Graph(opset=17, batch=batch)
    model = g.model(NOT_SIZED[kind](g))
    assert rewrite(model, synchronize=True) == model


def test_a_choice_of_layers_is_the_callers():
    g = Graph()
    y = g.op("Sub", g.batch_norm("x", *tensorflow(g, "x")), g.mean("x", [0], 1))
    model = g.model(y)
    assert "AllGather" in {node.op_type for node in rewrite(model, synchronize={"bn": "world"}).graph.node}
    with pytest.raises(OnnxCbpError, match="together over the samples"):
        rewrite(model, synchronize="size:2")


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in MODELS.glob("*/training_model.onnx")))
def test_the_sample_models_are_synchronized(folder):
    model = onnx.load(MODELS / folder / "training_model.onnx")
    rewritten = rewrite(model, synchronize=True, data_parallel=True)
    assert any(node.op_type == "AllGather" for node in rewritten.graph.node)
    assert rewrite(rewritten, synchronize=True, data_parallel=True) == rewritten


def test_inference_form_alone_is_refused_and_beside_others_is_not():
    g = Graph()
    frozen = g.batch_norm("x", g.constant(np.zeros(C)), g.constant(np.ones(C)), name="frozen")
    model = g.model(frozen)
    with pytest.raises(OnnxCbpError, match=r"'frozen' .*in inference form .*--train"):
        rewrite(model, synchronize=True)
    rewritten = rewrite(model, synchronize=True, train="*")
    assert any(node.op_type == "AllGather" for node in rewritten.graph.node)
    both = g.model(g.batch_norm(frozen, *tensorflow(g, frozen), name="trains"))
    layers = [node for node in rewrite(both, synchronize=True).graph.node if node.op_type == "AllGather"]
    assert len(layers) == 1
    assert helper.get_attribute_value(layers[0].attribute[1]) == b"trains"


def test_in_a_branch():
    text = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3] x, bool c) => (float[N, 3] y)
{
    y = If (c) <
        then_branch = g () => (float[N, 3] a) { m = ReduceMean <axes = [0]> (x)  a = Sub (x, m) },
        else_branch = h () => (float[N, 3] b) { b = Identity (x) }
    >
}"""
    with pytest.raises(OnnxCbpError, match="together over the samples of a batch"):
        rewrite(parse(text), synchronize=True)
    apart = parse(text.replace("axes = [0]", "axes = [1]"))
    assert rewrite(apart, synchronize=True) == apart


def test_updated_statistics_that_are_outputs_are_those_of_all_replicas():
    model = parse(FORWARD)
    assert any(node.op_type == "AllGather" for node in rewrite(model, synchronize=True).graph.node)
