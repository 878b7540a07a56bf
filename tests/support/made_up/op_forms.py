"""Ops in the forms that exporters write: little graphs with one each, and inputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class Form:
    """A graph x -> h = x + P -> y, in which an op makes y of h.

    Attributes:
        text: the nodes behind h, in ONNX's text form.
        shape: the shape of h; its first size is free in the graph.
        opset: the version of ONNX's domain.
        trained: parameters beside P: shapes.
        constants: other values.
        smooth: the gradient changes little over a step of 0.02; otherwise the op has kinks.
    """

    text: str
    shape: tuple[int, ...] = (2, 3, 6, 6)
    opset: int = 17
    trained: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    smooth: bool = True

    def __str__(self) -> str:
        return f"{self.text} {self.opset}"

    def values(self, seed: int = 1) -> dict[str, np.ndarray]:
        """P and the other parameters; no two elements of P are closer than 1 / its size."""
        rng = np.random.default_rng(seed)
        shape = (1, *self.shape[1:])
        values = {"P": rng.permutation(np.linspace(-1.5, 1.5, int(np.prod(shape)))).reshape(shape)}
        values |= {name: rng.normal(0, 0.7, size) for name, size in self.trained.items()}
        return {name: value.astype(np.float32) for name, value in values.items()}

    def model(self, *, fed: bool = False) -> onnx.ModelProto:
        """The graph, its parameters as initializers (`fed`: as inputs)."""
        sizes = ",".join(["N", *(str(size) for size in self.shape[1:])])
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : {self.opset}]> g (float[{sizes}] x) => (float y) '
            f"{{ h = Add (x, P) {self.text} }}"
        )
        model.graph.output[0].type.tensor_type.ClearField("shape")
        for name, value in self.values().items():
            if fed:
                model.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape))
            else:
                model.graph.initializer.append(numpy_helper.from_array(value, name))
        for name, value in self.constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return onnx.shape_inference.infer_shapes(model)

    def data(self, seed: int = 2) -> np.ndarray:
        """A batch."""
        return (0.05 * np.random.default_rng(seed).normal(size=self.shape)).astype(np.float32)


def _longs(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_CONV = {"W": (4, 3, 3, 3), "b": (4,)}
_SPREAD = {"W": (3, 4, 3, 3), "b": (4,)}


def _each(op: str, options: Sequence[str], **more) -> list[Form]:
    return [Form(f"y = {op.replace('<>', f'<{option}>')}", **more) for option in options]


#: Convolutions and pools whose pads a rule makes, or whose gradients ONNX Runtime has wrong.
WINDOWS = [
    *_each(
        "Conv <> (h, W, b)",
        [
            'auto_pad = "SAME_UPPER"',
            'auto_pad = "SAME_LOWER"',
            'auto_pad = "VALID"',
            'auto_pad = "SAME_UPPER", strides = [2, 2]',
            'auto_pad = "SAME_LOWER", strides = [2, 1], kernel_shape = [3, 3]',
        ],
        trained=_CONV,
    ),
    Form('y = Conv <auto_pad = "SAME_LOWER"> (h, W)', (2, 3, 9), trained={"W": (4, 3, 4)}),
    Form('y = Conv <auto_pad = "SAME_UPPER"> (h, W)', (1, 2, 4, 3, 4), trained={"W": (2, 2, 2, 3, 1)}),
    Form('y = Conv <auto_pad = "SAME_UPPER", group = 3> (h, W)', trained={"W": (6, 1, 2, 2)}),
    Form(
        "y = Conv <group = 2, pads = [1, 1, 1, 0, 0, 0]> (h, W, b)",
        (2, 4, 4, 3, 4),
        17,
        {"W": (6, 2, 2, 2, 2), "b": (6,)},
    ),
    *_each(
        "AveragePool <> (h)",
        [
            "kernel_shape = [2, 2], strides = [2, 2]",
            "kernel_shape = [3, 3], pads = [1, 1, 1, 1]",
            "kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1",
            "kernel_shape = [3, 2], pads = [1, 0, 0, 1], strides = [2, 1]",
            "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1",
            'kernel_shape = [3, 3], auto_pad = "SAME_UPPER"',
            'kernel_shape = [3, 3], auto_pad = "SAME_LOWER", strides = [2, 2]',
            'kernel_shape = [2, 2], auto_pad = "VALID"',
            "kernel_shape = [6, 6]",
        ],
    ),
    Form("y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (h)", opset=19),
    Form("y = AveragePool <kernel_shape = [2], strides = [2]> (h)", (2, 3, 8)),
    Form("y = AveragePool <kernel_shape = [2, 2, 2], pads = [1, 1, 1, 0, 0, 0]> (h)", (2, 2, 4, 4, 4)),
    *_each(
        "MaxPool <> (h)",
        ["kernel_shape = [2, 2], storage_order = 1", 'kernel_shape = [3, 3], auto_pad = "SAME_UPPER"'],
        smooth=False,
    ),
    Form("y = GlobalMaxPool (h)", smooth=False),
    *_each(
        "ConvTranspose <> (h, W, b)",
        [
            "kernel_shape = [3, 3]",
            "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]",
            "strides = [2, 3], pads = [1, 0, 0, 1], dilations = [2, 1]",
            'strides = [2, 2], auto_pad = "SAME_UPPER"',
            'strides = [2, 2], auto_pad = "SAME_LOWER"',
            "strides = [2, 2], output_shape = [12, 12]",
        ],
        trained=_SPREAD,
    ),
    Form("y = ConvTranspose <group = 3, strides = [2]> (h, W)", (2, 6, 5), trained={"W": (6, 2, 2)}),
]

#: Ops that ONNX Runtime's builder has no gradient for, or a wrong one, in some form.
OTHERS = [
    *(
        Form(f"y = {op} (h)", opset=opset, smooth=False)
        for op in ("HardSigmoid <alpha = 0.16666667>", "HardSwish", "Elu <alpha = 0.5>", "Selu", "Celu <alpha = 2.0>")
        for opset in (14, 18)
    ),
    *(
        Form(f"y = {op} (h)", opset=13, smooth=False)
        for op in ("HardSigmoid", "Elu", "Softplus", "Softsign", "ThresholdedRelu <alpha = 0.4>")
    ),
    Form("y = Mish (h)", opset=18),
    Form("y = Shrink <lambd = 0.4, bias = 0.4> (h)", (2, 3, 4), opset=18, smooth=False),
    Form("y = PRelu (h, s)", trained={"s": (3, 1, 1)}, smooth=False),
    *(
        Form(f"y = {op} <axes = [{axes}], keepdims = {keep}> (h)", (2, 3, 4), opset=13, smooth=False)
        for op in ("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare")
        for axes, keep in (("1", 0), ("0, 2", 1), ("-1", 0))
        if not (keep and op in ("ReduceL2", "ReduceLogSumExp"))  # these are right as they are
    ),
    Form("y = ReduceL2 <keepdims = 0> (h)", (2, 3, 4)),
    Form("y = ReduceMax (h, a)", (2, 3, 4), opset=18, constants={"a": _longs(1, 2)}, smooth=False),
    Form("e = Exp (h) y = ReduceLogSum (e, a)", (2, 3, 4), opset=18, constants={"a": _longs(1)}),
    Form("t = Tanh (h) y = Sum (h, t, w)", (2, 3, 4), trained={"w": (4,)}),
    Form("t = Tanh (h) y = Mean (h, t)", (2, 3, 4)),
    Form("y = LayerNormalization (h, s, b)", (2, 3, 4), trained={"s": (4,), "b": (4,)}),
    Form("y = LayerNormalization <axis = 1, epsilon = 0.5> (h, s)", (2, 3, 4), trained={"s": (3, 4)}),
    Form("y = InstanceNormalization <epsilon = 0.1> (h, s, b)", trained={"s": (3,), "b": (3,)}),
    Form("y = InstanceNormalization (h, s, b)", (2, 3, 5), opset=18, trained={"s": (3,), "b": (3,)}),
    Form("y = MeanVarianceNormalization <axes = [2, 3]> (h)"),
    Form("y = LpNormalization <axis = 1> (h)"),
    Form("c = Greater (h, z) y = Where (c, h, w)", (2, 3, 4), 17, {"w": (4,)}, {"z": np.float32(0.01)}, smooth=False),
    Form("y = Where (c, w, h)", (2, 3, 4), 17, {"w": (1, 4)}, {"c": np.array([True, False, True, False])}),
    Form("a, b, c = Split <axis = 1> (h) y = Mul (a, c)", opset=13),
    Form("a, b = Split <axis = 2, split = [2, 4]> (h) y = Tanh (b)", opset=11),
    Form("a, b = Split <axis = -1> (h, s) y = Tanh (a)", constants={"s": _longs(2, 4)}),
    Form("a, b, c = Split <axis = 2, num_outputs = 3> (h) y = Tanh (c)", (2, 3, 7), opset=18),
    Form("y = Slice (h, s, e, a, t)", constants={"s": _longs(5), "e": _longs(-9), "a": _longs(3), "t": _longs(-2)}),
    Form("y = Transpose (h)", (2, 3, 4)),
    Form("y = MatMul (h, w)", (2, 3, 4), trained={"w": (4,)}),
    Form("y = MatMul (w, h)", (2, 3, 4), trained={"w": (3,)}),
    Form("a = Exp (h) y = Pow (a, e)", (2, 3, 4), trained={"e": (4,)}),
    Form("y = Pow (h, e)", (2, 3, 4), constants={"e": _longs(2)}),
    Form('y = DepthToSpace <blocksize = 2, mode = "DCR"> (h)', (2, 8, 2, 3)),
    Form('y = DepthToSpace <blocksize = 2, mode = "CRD"> (h)', (2, 8, 2, 3)),
    Form("y = SpaceToDepth <blocksize = 2> (h)", (2, 2, 4, 6)),
    *(
        Form(f'y = Pad <mode = "{mode}"> (h, p)', constants={"p": _longs(0, 0, 1, 2, 0, 0, 2, 1)})
        for mode in ("reflect", "edge")
    ),
    Form("y = Pad (h, p, , a)", opset=18, constants={"p": _longs(1, 2, 0, 1), "a": _longs(-1, 2)}),
    *(
        Form(f"y = Resize <{options}> (h, , s)", constants={"s": np.array([1, 1, 2, 1.5], np.float32)})
        for options in (
            'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
            'mode = "linear"',
            'mode = "linear", coordinate_transformation_mode = "align_corners"',
            'mode = "cubic"',
        )
    ),
    Form('y = Resize <mode = "linear"> (h, , s)', (2, 3, 5), constants={"s": np.array([1, 1, 2], np.float32)}),
]
