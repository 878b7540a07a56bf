"""Small valid models made up from a seed: batch norms in every form, alone and among other ops."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp

_SAMPLES = Path(__file__).parents[2] / "models"
_NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}


class RandomGraph:
    """A random forward graph under construction; all data are [N, C, ...] or, with channels last, [N, ..., C].

    Attributes:
        rng: source of every choice.
        opset, rank, channels, dtype: of the graph.
    """

    def __init__(self, rng: np.random.Generator, opset: int | None = None) -> None:
        self.rng = rng
        self.opset = int(rng.choice([9, 11, 13, 14, 15, 17, 18, 20]) if opset is None else opset)
        self.rank = int(rng.choice([2, 3, 4, 4, 5]))
        self.channels = int(rng.choice([2, 3, 4, 6]))
        self.dtype = int(rng.choice([TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.DOUBLE]))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def name(self, kind: str) -> str:
        """A name that nothing has yet."""
        return f"{kind}{len(self.nodes)}_{len(self.initializers)}"

    def shape(self) -> list[int | str]:
        """The shape of the data."""
        return ["N", self.channels, *[4] * (self.rank - 2)]

    def vector(self, low: float, high: float, shape: tuple[int, ...] | None = None) -> str:
        """A parameter, one number a channel."""
        name = self.name("p")
        values = self.rng.uniform(low, high, self.channels).astype(_NUMPY[self.dtype])
        self.initializers.append(numpy_helper.from_array(values.reshape(shape or (self.channels,)), name))
        return name

    def number(self, value: float) -> str:
        """A number of the type of the data."""
        name = self.name("n")
        self.initializers.append(numpy_helper.from_array(np.array(value, _NUMPY[self.dtype]), name))
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object) -> str:
        """Append a node; its first output."""
        node = self.node(op_type, *inputs, outputs=outputs, domain=domain, **attributes)
        self.nodes.append(node)
        return str(node.output[0])

    def node(
        self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object
    ) -> onnx.NodeProto:
        """A node that stands nowhere yet."""
        name = self.name(op_type)
        names = [f"{name}_{index}" for index in range(outputs)]
        return helper.make_node(op_type, list(inputs), names, name=name, domain=domain, **attributes)  # type: ignore[arg-type]

    def batch_norm(self, X: str) -> onnx.NodeProto:
        """A BatchNormalization in training or in inference form of the opset."""
        vectors = [self.vector(*ends) for ends in ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2))]
        attributes: dict[str, object] = {"epsilon": float(self.rng.choice([1e-5, 1e-3]))}
        outputs = 1
        if self.rng.random() < 0.5:
            attributes["momentum"] = float(self.rng.choice([0.9, 0.5, 0.0, 1.0]))
            if self.opset >= 14:
                attributes["training_mode"] = 1
                outputs = 3  # ONNX Runtime asks for all
        return self.node("BatchNormalization", X, *vectors, outputs=outputs, **attributes)

    def arithmetic(self, X: str) -> str:
        """A batch norm spelled in arithmetic, with running or with batch statistics."""
        wide = (1, self.channels, *[1] * (self.rank - 2))
        axes = [0, *range(2, self.rank)]
        if self.rng.random() < 0.5:
            mean, var = self.vector(-1, 1, wide), self.vector(0.5, 2, wide)
            centred = self.op("Sub", X, mean)
        else:
            mean = self.mean(X, axes)
            centred = self.op("Sub", X, mean)
            var = self.mean(self.op("Mul", centred, centred), axes)
        std = self.op("Sqrt", self.op("Add", var, self.number(1e-3)))
        scaled = self.op("Mul", self.op("Div", centred, std), self.vector(0.5, 2, wide))
        return self.op("Add", scaled, self.vector(-1, 1, wide))

    def mean(self, X: str, axes: list[int]) -> str:
        """The mean over axes, which were an attribute before opset 18."""
        if self.opset < 18:
            return self.op("ReduceMean", X, axes=axes, keepdims=1)
        name = self.name("axes")
        self.initializers.append(numpy_helper.from_array(np.array(axes, np.int64), name))
        return self.op("ReduceMean", X, name, keepdims=1)

    def linear(self, X: str) -> str:
        """A convolution, or a Gemm where there is no space."""
        if self.rank > 2 and self.dtype == TensorProto.DOUBLE:
            return self.op("Neg", X)  # ONNX Runtime has no convolution of double numbers
        weight, C = self.name("w"), self.channels
        shape = (C, C) if self.rank == 2 else (C, C, *[3] * (self.rank - 2))
        values = self.rng.normal(0, 0.4, shape).astype(_NUMPY[self.dtype])
        self.initializers.append(numpy_helper.from_array(values, weight))
        bias = [self.vector(-1, 1)] if self.rng.random() < 0.5 else []
        if self.rank == 2:
            return self.op("Gemm", X, weight, *bias, transB=int(self.rng.integers(2)))
        return self.op("Conv", X, weight, *bias, pads=[1] * 2 * (self.rank - 2))

    def in_function(self, X: str) -> str:
        """A batch norm in a model-local function."""
        node = self.batch_norm(X)
        name = f"F{len(self.functions)}"
        parameters = list(node.input[1:])
        body = onnx.NodeProto()
        body.CopyFrom(node)
        body.input[0] = "fx"
        body.input[1:] = [f"f{index}" for index in range(4)]
        own = int(self.rng.choice([self.opset, self.opset, 15, 17]))
        own = own if own >= 14 or not any(a.name == "training_mode" for a in node.attribute) else self.opset
        formals = ["fx", *(f"f{index}" for index in range(4))]
        self.functions.append(
            helper.make_function("local", name, formals, list(body.output), [body], [helper.make_opsetid("", own)])
        )
        return self.op(name, X, *parameters, outputs=len(body.output), domain="local")

    def in_branch(self, X: str) -> str:
        """A batch norm in a branch of an If."""
        node = self.batch_norm(X)
        condition, other = self.name("c"), self.node("Neg", X)
        self.initializers.append(numpy_helper.from_array(np.array(bool(self.rng.integers(2))), condition))
        branches = [
            helper.make_graph(
                [each], name, [], [helper.make_tensor_value_info(each.output[0], self.dtype, self.shape())]
            )
            for name, each in (("then", node), ("else", other))
        ]
        return self.op("If", condition, then_branch=branches[0], else_branch=branches[1])

    def channels_last(self, X: str) -> str:
        """A batch norm between transposes."""
        there, back = [0, self.rank - 1, *range(1, self.rank - 1)], [0, *range(2, self.rank), 1]
        last = self.op("Neg", self.op("Transpose", X, perm=back))
        node = self.batch_norm(self.op("Transpose", last, perm=there))
        self.nodes.append(node)
        last = self.op("Neg", self.op("Transpose", self.op("Relu", node.output[0]), perm=back))
        return self.op("Transpose", last, perm=there)

    def layer(self, X: str) -> str:
        """Something that keeps the shape of the data."""
        kinds = ["batch norm"] * 5 + [
            "arithmetic",
            "function",
            "branch",
            "linear",
            "linear",
            "relu",
            "residual",
            "last",
        ]
        kind = str(self.rng.choice(kinds))
        if kind == "batch norm":
            node = self.batch_norm(X)
            self.nodes.append(node)
            if len(node.output) > 1 and self.rng.random() < 0.5:
                self.outputs += [
                    helper.make_tensor_value_info(each, self.dtype, [self.channels]) for each in node.output[1:]
                ]
            return str(node.output[0])
        if kind == "arithmetic":
            return self.arithmetic(X)
        if kind == "function":
            return self.in_function(X)
        if kind == "branch":
            return self.in_branch(X)
        if kind == "linear":
            return self.linear(X)
        if kind == "last" and self.rank > 2:
            return self.channels_last(X)
        if kind == "residual":
            return self.op("Add", X, self.op("Tanh", X))
        return self.op("Relu", X)

    def model(self, layers: int) -> onnx.ModelProto:
        """The model of so many layers."""
        self.inputs.append(helper.make_tensor_value_info("x", self.dtype, self.shape()))
        value = "x"
        for _ in range(layers):
            value = self.layer(value)
        if value == "x":
            value = self.op("Relu", value)
        outputs = [helper.make_tensor_value_info(value, self.dtype, self.shape()), *self.outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.functions:
            opsets.append(helper.make_opsetid("local", 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        model.functions.extend(self.functions)
        return model


def valid_model(rng: np.random.Generator) -> onnx.ModelProto:
    """A forward graph that is valid."""
    return RandomGraph(rng).model(int(rng.integers(1, 6)))


@functools.cache
def _sample(path: Path) -> bytes:
    return path.read_bytes()


def any_model(rng: np.random.Generator) -> onnx.ModelProto:
    """A forward graph, one that was rewritten, or a sample of ONNX Runtime's training artifacts."""
    kind = rng.random()
    if kind < 0.6:
        return valid_model(rng)
    if kind < 0.75:
        model = RandomGraph(rng, 17).model(int(rng.integers(1, 4)))
        options = {"one_pass": bool(rng.integers(2)), "portable": bool(rng.integers(2))}
        return onnx_cbp.rewrite(model, **options)  # type: ignore[arg-type]
    files = sorted(_SAMPLES.glob("*/*_model.onnx"))
    model = onnx.ModelProto.FromString(_sample(files[int(rng.integers(len(files)))]))
    if kind > 0.9:
        steps = bool(rng.integers(2))
        synchronize = steps and bool(rng.integers(2))
        with contextlib.suppress(onnx_cbp.OnnxCbpError):  # all in inference form: there is nothing to synchronize
            return onnx_cbp.rewrite(model, one_pass=not steps, synchronize=synchronize)
    return model


def feeds(model: onnx.ModelProto, rng: np.random.Generator, samples: int = 3) -> dict[str, np.ndarray] | None:
    """Random inputs by name; None where the model does not say what it takes."""
    given = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in given:
            continue
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            return None
        shape = [dim.dim_value if 0 < dim.dim_value <= 64 else samples for dim in kind.shape.dim]
        if len(shape) > 6 or np.prod(shape) > 1e6:
            return None
        try:
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        except KeyError:
            return None
        if dtype == np.object_:
            return None
        found[value.name] = rng.normal(0.3, 1.0, shape).astype(dtype)
    return found
