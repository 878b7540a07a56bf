"""A gradient penalty through a batch norm, and a Hessian-vector product: second derivatives in an ONNX graph.

Run it from anywhere as `python examples/gradient_penalty.py`; it needs the package and ONNX Runtime, nothing else.

The graph is convolution, batch norm (training), ReLU, L = ||R - T||^2 / 2. It computes dX, the gradient of L with
respect to the data; the penalty ||dX||^2 / 2; and the gradient of the penalty with respect to data and parameters, all
by the ops of onnx-cbp and standard ONNX, in double. What it prints is how far that is from finite differences, and the
penalty over 20 steps of gradient descent on it.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

import onnx_cbp
from onnx_cbp.custom_ops.double_backward import batch_norm_double_backward

EPSILON = 1e-3
PARAMETERS = ("x", "w", "scale", "B")


class GraphWriter:
    """Nodes under construction; each method appends some and returns the name of the result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._number = 0

    def op(self, op_type: str, *inputs: str, name: str = "", outputs: int = 1, domain: str = "", **attributes) -> str:
        """One node; its first result. More results are called name_1, name_2 ..."""
        self._number += 1
        name = name or f"{op_type}_{self._number}"
        results = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op_type, list(inputs), results, domain=domain, **attributes))
        return name

    def channel_op(self, op_type: str, *inputs: str, name: str = "", outputs: int = 1, **attributes) -> str:
        """One of our ops on [N, C, L]."""
        return self.op(op_type, *inputs, name=name, outputs=outputs, domain="onnx_cbp", axis=1, **attributes)

    def ints(self, *values: int) -> str:
        """A constant."""
        return self.op("Constant", value_ints=list(values))

    def double(self, value: float) -> str:
        """A constant scalar."""
        return self.op("Constant", value=helper.make_tensor("", TensorProto.DOUBLE, [], [value]))

    # ONNX Runtime has no convolution in double, so it is one of its windows: [N, I, L] to [N, I, K, L - K + 1].

    def windows(self, x: str, taps: int) -> str:
        """The values under each tap of a filter."""
        axis = self.ints(2)
        shifted = []
        for k in range(taps):
            stop = self.ints(k - taps + 1) if k < taps - 1 else self.ints(np.iinfo(np.int64).max)
            part = self.op("Slice", x, self.ints(k), stop, axis)
            shifted.append(self.op("Unsqueeze", part, axis))
        return self.op("Concat", *shifted, axis=2)

    def conv(self, x: str, w: str, taps: int, name: str = "") -> str:
        """The convolution of x [N, I, L] with w [O, I, K], without padding: [N, O, L - K + 1]."""
        return self.op("Einsum", self.windows(x, taps), w, name=name, equation="nikl,oik->nol")

    def conv_transpose(self, dy: str, w: str, taps: int, name: str = "") -> str:
        """The gradient of a convolution with respect to x, of dy [N, O, L - K + 1]: [N, I, L]."""
        spread = self.op("Einsum", dy, w, equation="nol,oik->nikl")
        parts = []
        for k in range(taps):
            part = self.op("Gather", spread, self.op("Constant", value_int=k), axis=2)
            parts.append(self.op("Pad", part, self.ints(0, 0, k, 0, 0, taps - 1 - k)))
        return self.op("Sum", *parts, name=name)

    def conv_weight_grad(self, x: str, dy: str, taps: int, name: str = "") -> str:
        """The gradient of a convolution with respect to w: [O, I, K]."""
        return self.op("Einsum", self.windows(x, taps), dy, name=name, equation="nikl,nol->oik")

    def half_squared_norm(self, value: str, name: str) -> str:
        """A scalar."""
        squares = self.op("ReduceSumSquare", value, keepdims=0)
        return self.op(
            "Mul", squares, self.op("Constant", value=helper.make_tensor("", TensorProto.DOUBLE, [], [0.5])), name=name
        )


def build(taps: int = 3, *, hvp: bool = False) -> onnx.ModelProto:
    """The graph: x [N, I, L], w [O, I, K], scale [O], B [O], t [N, O, L - K + 1], all double.

    Args:
        taps: K.
        hvp: differentiate <v, dX> for an input v of x's shape, instead of the penalty ||dX||^2 / 2. The gradient with
            respect to x is then the Hessian of L times v.

    Returns:
        A model with the outputs loss, x_grad (dX), value (the penalty or <v, dX>), and d_x, d_w, d_scale, d_B: the
        gradients of value.
    """
    g = GraphWriter()
    # Forward.
    c = g.conv("x", "w", taps, "c")
    g.channel_op("ChannelStats", c, name="stats", outputs=3, stash_type=TensorProto.DOUBLE)
    mean, var, count = "stats", "stats_1", "stats_2"
    y = g.channel_op("ChannelNormalize", c, "scale", "B", mean, var, epsilon=EPSILON)
    error = g.op("Sub", g.op("Relu", y), "t")
    g.half_squared_norm(error, "loss")

    # Backward: dX.
    # As ChannelNormalize has it, which takes a 32-bit epsilon.
    inv_std = g.op("Reciprocal", g.op("Sqrt", g.op("Add", var, g.double(float(np.float32(EPSILON))))))
    passed = g.op("Cast", g.op("Greater", y, g.op("Sub", y, y)), to=TensorProto.DOUBLE)
    dy = g.op("Mul", error, passed)
    sums = g.channel_op("ChannelBackpropStats", c, mean, inv_std, dy, name="sums", outputs=2)
    dc = g.channel_op("ChannelBackprop", dy, c, "scale", mean, inv_std, sums, "sums_1", count)
    dx = g.conv_transpose(dc, "w", taps, "x_grad")

    # What is differentiated, and its gradient with respect to dX.
    if hvp:
        g.op("ReduceSum", g.op("Mul", "v", dx), name="value", keepdims=0)
    else:
        g.half_squared_norm(dx, "value")
    cotangent = "v" if hvp else dx

    # Backward through the backward pass.
    V = g.conv(cotangent, "w", taps)
    second = batch_norm_double_backward(
        X=c,
        scale="scale",
        mean=mean,
        var=var,
        inv_std=inv_std,
        count=count,
        dY=dy,
        scale_grad=sums,
        bias_grad="sums_1",
        V=V,
        prefix="second_",
        epsilon=EPSILON,
        stash_type=TensorProto.DOUBLE,
    )
    g.nodes.extend(second.nodes)
    # dY depends on y again, through the loss: once more through the forward pass.
    d_y = g.op("Mul", second.dY, passed)
    more = g.channel_op("ChannelBackpropStats", c, mean, inv_std, d_y, name="more", outputs=2)
    more_dc = g.channel_op("ChannelBackprop", d_y, c, "scale", mean, inv_std, more, "more_1", count)
    d_c = g.op("Add", second.X, more_dc)
    g.conv_transpose(d_c, "w", taps, "d_x")
    through_c, direct = g.conv_weight_grad("x", d_c, taps), g.conv_weight_grad(cotangent, dc, taps)
    g.op("Add", through_c, direct, name="d_w")
    g.op("Add", second.scale, more, name="d_scale")
    g.op("Identity", "more_1", name="d_B")

    shapes = {"x": "NIL", "w": "OIK", "scale": "O", "B": "O", "t": "NOS", "v": "NIL", "x_grad": "NIL"}
    shapes |= {"loss": "", "value": "", "d_x": "NIL", "d_w": "OIK", "d_scale": "O", "d_B": "O"}
    inputs = [*PARAMETERS, "t", *(["v"] if hvp else [])]
    outputs = ["loss", "x_grad", "value", *(f"d_{name}" for name in PARAMETERS)]

    def typed(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.DOUBLE, list(shapes[name])) for name in names]

    graph = helper.make_graph(g.nodes, "gradient_penalty", typed(inputs), typed(outputs))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx_cbp", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def session(model: onnx.ModelProto, backend: str = "auto") -> ort.InferenceSession:
    """A session with our ops."""
    options = ort.SessionOptions()
    onnx_cbp.register(options, backend)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(of: ort.InferenceSession, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by name."""
    names = [output.name for output in of.get_outputs()]
    inputs = {i.name for i in of.get_inputs()}
    feeds = {name: value for name, value in values.items() if name in inputs}
    return dict(zip(names, of.run(names, feeds), strict=True))


def random_values(seed: int = 0, taps: int = 3) -> dict[str, np.ndarray]:
    """Inputs: 4 samples of 2 channels and 12 places, 3 filters."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(1.0, 1.5, (4, 2, 12)),
        "w": rng.normal(0.0, 0.6, (3, 2, taps)),
        "scale": rng.uniform(0.5, 2.0, 3),
        "B": rng.normal(0.0, 0.5, 3),
        "t": rng.normal(0.0, 1.0, (4, 3, 13 - taps)),
        "v": rng.normal(0.0, 1.0, (4, 2, 12)),
    }


def finite_differences(
    of: ort.InferenceSession, values: dict[str, np.ndarray], name: str, result: str = "value", step: float = 1e-6
) -> np.ndarray:
    """The gradient of a scalar output with respect to an input, by central differences."""
    gradient = np.zeros_like(values[name])
    for index in np.ndindex(gradient.shape):
        ends = []
        for sign in (1, -1):
            moved = values[name].copy()
            moved[index] += sign * step
            ends.append(float(run(of, {**values, name: moved})[result]))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def main() -> None:
    """Print how far the gradients are from finite differences, and a descent on the penalty."""
    values = random_values()
    for what, hvp in (("gradient of the penalty ||dX||^2 / 2", False), ("gradient of <v, dX>", True)):
        of = session(build(hvp=hvp))
        results = run(of, values)
        print(f"{what}, against central differences in float64")
        for name in PARAMETERS:
            want = finite_differences(of, values, name)
            apart = np.abs(results[f"d_{name}"] - want).max() / np.abs(want).max()
            print(f"  with respect to {name:<6} {apart:.1e} (relative)")
    of = session(build())
    print("descent on the penalty, in w")
    for step in range(21):
        results = run(of, values)
        if step % 5 == 0:
            print(f"  step {step:<3} penalty {float(results['value']):8.4f}   loss {float(results['loss']):8.4f}")
        values["w"] = values["w"] - 2e-3 * results["d_w"]


if __name__ == "__main__":
    main()
