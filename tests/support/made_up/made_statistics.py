"""Batch norms in inference form whose mean and variance the graph makes, in the spellings of exporters and people."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

C = 4
EPSILON = 1e-3
#: Shapes of what the batch norm reads by rank.
SHAPES = {2: (C,), 3: (C, 5), 4: (C, 3, 2), 5: (C, 3, 2, 2)}


class Graph:
    """Writes a graph of opset `opset` node by node."""

    def __init__(self, rank: int = 4, opset: int = 17, batch: int | str = "N", dtype: type = np.float32) -> None:
        self.shape = (batch, *SHAPES[rank])
        self.rank, self.opset, self.dtype = rank, opset, dtype
        self.axes = [axis for axis in range(rank) if axis != 1]
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names = (f"t{number}" for number in itertools.count())

    def op(self, op_type: str, *inputs: str, name: str = "", **attributes) -> str:
        output = next(self._names)
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name or f"{op_type}_{output}", **attributes))
        return output

    def constant(self, value, dtype=None, name: str = "") -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype or self.dtype), name or next(self._names))
        self.initializers.append(tensor)
        return tensor.name

    def integers(self, value) -> str:
        return self.constant(value, np.int64)

    def mean(self, value: str, axes: list[int], keepdims: int) -> str:
        if self.opset < 18:
            return self.op("ReduceMean", value, axes=axes, keepdims=keepdims)
        return self.op("ReduceMean", value, self.integers(axes), keepdims=keepdims)

    def sum(self, value: str, axes: list[int], keepdims: int, kind: str = "ReduceSum") -> str:
        if self.opset < (13 if kind == "ReduceSum" else 18):
            return self.op(kind, value, axes=axes, keepdims=keepdims)
        return self.op(kind, value, self.integers(axes), keepdims=keepdims)

    def squeeze(self, value: str, axes: list[int]) -> str:
        if self.opset < 13:
            return self.op("Squeeze", value, axes=axes)
        return self.op("Squeeze", value, self.integers(axes))

    def square(self, value: str) -> str:
        return self.op("Mul", value, value)

    def count(self, value: str) -> str:
        """How many elements of a value a channel has."""
        sizes = self.op("Gather", self.op("Shape", value), self.integers(self.axes))
        if self.opset < 18:
            return self.op("Cast", self.op("ReduceProd", sizes, axes=[0], keepdims=0), to=TensorProto.FLOAT)
        return self.op("Cast", self.op("ReduceProd", sizes, self.integers([0]), keepdims=0), to=TensorProto.FLOAT)

    def batch_norm(self, X: str, mean: str, var: str, seed: int = 0, name: str = "bn") -> str:
        rng = np.random.default_rng(seed)
        scale = self.constant(rng.uniform(0.5, 1.5, C), name=f"{name}.weight")
        B = self.constant(rng.normal(size=C), name=f"{name}.bias")
        return self.op("BatchNormalization", X, scale, B, mean, var, name=name, epsilon=EPSILON)

    def model(self, *outputs: str, x: tuple[int | str, ...] | None = None) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        fed = helper.make_tensor_value_info("x", kind, self.shape if x is None else x)
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "made", [fed], results, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for value in model.graph.output:
            if not value.type.tensor_type.HasField("shape"):
                value.CopyFrom(helper.make_tensor_value_info(value.name, kind, [None] * self.rank))
        onnx.checker.check_model(model)
        return model


Statistics = Callable[[Graph, str], tuple[str, str]]


def pytorch(g: Graph, X: str) -> tuple[str, str]:
    """PyTorch's exporter: channels first, all else one axis."""
    order = [1, 0, *range(2, g.rank)]
    flat = g.op("Reshape", g.op("Transpose", X, perm=order), g.integers([C, -1]))
    centred = g.op("Sub", flat, g.mean(flat, [1], 1))
    return g.mean(flat, [1], 0), g.mean(g.square(centred), [1], 0)


def tensorflow(g: Graph, X: str) -> tuple[str, str]:
    """Tf2onnx of FusedBatchNorm with is_training: the squares are summed up and divided by their number."""
    mean = g.mean(X, g.axes, 1)
    squares = g.sum(g.op("Sub", X, mean), g.axes, 0, "ReduceSumSquare")
    return g.squeeze(mean, g.axes), g.op("Div", squares, g.count(X))


def sums(g: Graph, X: str) -> tuple[str, str]:
    """Sums divided by a number, and the mean of squares."""
    n = g.count(X)
    mean = g.op("Div", g.sum(X, g.axes, 0), n)
    return mean, g.op("Sub", g.op("Div", g.sum(g.square(X), g.axes, 0), n), g.square(mean))


def in_steps(g: Graph, X: str) -> tuple[str, str]:
    """Means of means, one axis after the other, the last one first."""

    def mean(value: str) -> str:
        for axis in reversed(g.axes):
            value = g.mean(value, [axis], 0)
        return value

    average = mean(X)
    return average, g.op("Sub", mean(g.square(X)), g.square(average))


def pooled(g: Graph, X: str) -> tuple[str, str]:
    """Places by GlobalAveragePool, then samples."""

    def mean(value: str) -> str:
        value = g.op("GlobalAveragePool", value) if g.rank > 2 else value
        return g.op("Reshape", g.mean(value, [0], 0), g.integers([-1]))

    average = mean(X)
    var = g.op("Sub", mean(g.square(X)), g.square(average))
    return average, g.op("Max", var, g.constant(0.0))


def of_a_transpose(g: Graph, X: str) -> tuple[str, str]:
    """Of the channels-last arrangement."""
    last = g.op("Transpose", X, perm=[0, *range(2, g.rank), 1])
    axes = list(range(g.rank - 1))
    centred = g.op("Sub", last, g.mean(last, axes, 1))
    return g.mean(last, axes, 0), g.mean(g.op("Pow", centred, g.constant(2.0)), axes, 0)


def in_double(g: Graph, X: str) -> tuple[str, str]:
    """In float64."""
    wide = g.op("Cast", X, to=TensorProto.DOUBLE)
    centred = g.op("Sub", wide, g.mean(wide, g.axes, 1))
    return tuple(
        g.op("Cast", value, to=TensorProto.FLOAT)
        for value in (g.mean(wide, g.axes, 0), g.mean(g.square(centred), g.axes, 0))
    )


OF_THE_BATCH: tuple[Statistics, ...] = (pytorch, tensorflow, sums, in_steps, pooled, of_a_transpose, in_double)


def unbiased(g: Graph, X: str) -> tuple[str, str]:
    """The variance with count - 1."""
    mean, var = tensorflow(g, X)
    n, one = g.count(X), g.constant(1.0)
    return mean, g.op("Mul", var, g.op("Div", n, g.op("Sub", n, one)))


def mean_alone(g: Graph, X: str) -> tuple[str, str]:
    """The mean of the batch, and a running variance."""
    return pytorch(g, X)[0], g.constant(np.linspace(0.5, 2, C))


def moving(g: Graph, X: str) -> tuple[str, str]:
    """Nine parts of a parameter and one of the batch."""
    mean, var = tensorflow(g, X)
    old = g.constant(np.full(C, 0.9)), g.constant(np.full(C, 1.8))
    return tuple(
        g.op("Add", before, g.op("Mul", now, g.constant(0.1))) for before, now in zip(old, (mean, var), strict=True)
    )


def of_another_value(g: Graph, X: str) -> tuple[str, str]:
    """Of the rectified data."""
    return tensorflow(g, g.op("Relu", X))


def of_half_the_places(g: Graph, X: str) -> tuple[str, str]:
    """Of the first place alone."""
    first = g.op("Slice", X, g.integers([0]), g.integers([1]), g.integers([g.rank - 1]))
    return tensorflow(g, first)


def second_moment(g: Graph, X: str) -> tuple[str, str]:
    """The mean of squares in the place of the variance."""
    return g.mean(X, g.axes, 0), g.mean(g.square(X), g.axes, 0)


OTHERS: tuple[Statistics, ...] = (
    unbiased,
    mean_alone,
    moving,
    of_another_value,
    of_half_the_places,
    second_moment,
)


def layer_norm(g: Graph, X: str) -> str:
    """A layer norm as TensorFlow writes it: every row is a channel of one sample."""
    rows = g.op("Reshape", X, g.integers([1, -1, int(np.prod(g.shape[2:])) * C, 1]))
    sizes = g.op("Gather", g.op("Shape", rows), g.integers([1]))
    scale, B = (
        g.op("ConstantOfShape", sizes, value=numpy_helper.from_array(np.array([v], np.float32))) for v in (1.0, 0.0)
    )
    inner = Graph(4, g.opset)
    inner.nodes, inner.initializers, inner._names = g.nodes, g.initializers, g._names
    mean, var = tensorflow(inner, rows)
    y = g.op("BatchNormalization", rows, scale, B, mean, var, name="ln", epsilon=EPSILON)
    return g.op("Reshape", y, g.integers([-1, *g.shape[1:]]))


def instance_norm(g: Graph, X: str) -> str:
    """Every channel of every sample is a channel."""
    flat = g.op("Reshape", X, g.integers([1, -1, *g.shape[2:]]))
    sizes = g.op("Gather", g.op("Shape", flat), g.integers([1]))
    scale, B = (
        g.op("ConstantOfShape", sizes, value=numpy_helper.from_array(np.array([v], np.float32))) for v in (1.0, 0.5)
    )
    mean, var = tensorflow(g, flat)
    y = g.op("BatchNormalization", flat, scale, B, mean, var, name="in", epsilon=EPSILON)
    return g.op("Reshape", y, g.integers([-1, *g.shape[1:]]))


def standardised_weight(g: Graph, W: str, shape: tuple[int, ...]) -> str:
    """A weight whose outputs each have mean 0 and variance 1, as timm's networks have."""
    flat = g.op("Reshape", W, g.integers([1, shape[0], -1]))
    inner = Graph(3, g.opset)
    inner.nodes, inner.initializers, inner._names = g.nodes, g.initializers, g._names
    mean, var = pytorch(inner, flat)
    y = inner.batch_norm(flat, mean, var, name="gain")
    return g.op("Reshape", y, g.integers(shape))
