"""Networks made up from a seed: forward graphs as an exporter writes them, for ONNX Runtime's gradient builder."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5


@dataclass
class Network:
    """A forward graph under construction.

    Attributes:
        rank: rank of the data: 2 (N, C) to 5 (N, C, D, H, W).
        rng: source of every choice and weight.
    """

    rank: int
    rng: np.random.Generator
    batch_norms: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)

    def parameter(self, name: str, value: np.ndarray) -> str:
        self.parameters[name] = value.astype(np.float32)
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes) -> str:
        """Append a node; its first output."""
        name = f"{op_type}_{len(self.nodes)}"
        results = [f"{name}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), results, name=name, **attributes))
        return results[0]

    def linear(self, x: str, channels_in: int, channels_out: int, *, bias: bool) -> str:
        """A convolution of the data's rank, or a Gemm where there is no space."""
        name = f"layer{len(self.nodes)}"
        space = (3,) * (self.rank - 2)
        fan_in = channels_in * 3 ** len(space)
        shape = (channels_out, channels_in, *space)
        weight = self.parameter(f"{name}.weight", self.rng.normal(0, (2 / fan_in) ** 0.5, shape))
        inputs = [x, weight]
        if bias:
            inputs.append(self.parameter(f"{name}.bias", self.rng.normal(0, 0.1, channels_out)))
        if self.rank == 2:
            return self.op("Gemm", *inputs, transB=1)
        return self.op("Conv", *inputs, kernel_shape=space, pads=(1,) * 2 * len(space))

    def batch_norm(self, x: str, channels: int) -> str:
        """A batch norm that trains, with an epsilon and a momentum of its own."""
        name = f"bn{self.batch_norms}"
        self.batch_norms += 1
        return self.op(
            "BatchNormalization",
            x,
            self.parameter(f"{name}.weight", self.rng.normal(1.0, 0.3, channels)),
            self.parameter(f"{name}.bias", self.rng.normal(0.0, 0.3, channels)),
            self.parameter(f"{name}.running_mean", np.zeros(channels)),
            self.parameter(f"{name}.running_var", np.ones(channels)),
            outputs=3,
            training_mode=1,
            epsilon=float(self.rng.choice([1e-5, 1e-3, 1e-2])),
            momentum=float(self.rng.choice([0.9, 0.7, 0.1])),
        )

    def activation(self, x: str) -> str:
        """Relu, another activation, or none."""
        kind = self.rng.choice(["Relu", "Relu", "Tanh", "none"])
        return x if kind == "none" else self.op(str(kind), x)


def random_network(seed: int, rank: int) -> onnx.ModelProto:
    """A classifier of float data [N, C, ...] with CLASSES logits, every structure chosen by the seed.

    Has batch norms with and without ReLU, sharing an input, with several consumers; residual sums and
    concatenations; odd numbers of channels.
    """
    net = Network(rank, np.random.default_rng(seed))
    rng = net.rng
    channels = int(rng.choice([5, 7, 9] if rank == 2 else [1, 2, 3]))
    shape = ("N", channels, *(int(s) for s in rng.integers(4, 7, rank - 2)))
    x, width = "x", channels
    for _ in range(int(rng.integers(2, 4))):
        new_width = int(rng.choice([3, 5, 7, 8]))
        x = net.linear(x, width, new_width, bias=bool(rng.integers(2)))
        x = net.activation(net.batch_norm(x, new_width))
        width = new_width
        kind = rng.choice(["residual", "shared input", "concatenation", "two consumers"])
        # Never a batch norm straight into a batch norm: the first one's gradients are zero but for epsilon.
        inner = net.linear(x, width, width, bias=bool(rng.integers(2)))
        if kind == "residual":
            x = net.activation(net.op("Add", net.batch_norm(inner, width), x))
        elif kind == "shared input":
            x = net.op("Add", net.batch_norm(inner, width), net.activation(net.batch_norm(inner, width)))
        elif kind == "concatenation":
            x = net.op("Concat", x, net.batch_norm(inner, width), axis=1)
            width *= 2
        else:
            normal = net.batch_norm(inner, width)
            x = net.op("Mul", net.activation(normal), net.op("Sigmoid", normal))
    if rank > 2:
        x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    net.parameter("fc.weight", rng.normal(0, width**-0.5, (CLASSES, width)))
    net.parameter("fc.bias", np.zeros(CLASSES))
    net.nodes.append(helper.make_node("Gemm", [x, "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1))
    graph = helper.make_graph(
        net.nodes,
        f"seed{seed}_rank{rank}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in net.parameters.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def random_batches(model: onnx.ModelProto, steps: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of (x, labels) for a network; the last batch is smaller, as the last of an epoch is."""
    rng = np.random.default_rng(seed)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    batches = []
    for step in range(steps):
        # A batch norm over very few values is ill-conditioned: one ulp in, many out.
        n = 33 if len(dims) == 2 else 8
        n = n - 3 if step == steps - 1 else n
        x = rng.normal(0.5, 2.0, (n, *(d.dim_value for d in dims[1:]))).astype(np.float32)
        batches.append((x, rng.integers(0, CLASSES, n)))
    return batches
