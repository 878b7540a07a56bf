"""Cases for the gradient rules, as data: an op, its inputs, its attributes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnx_cbp.custom_ops import DOMAIN, OPERATORS

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class In:
    """An input that is fed.

    Attributes:
        shape: "N" is a size that is not fixed.
        low, high: the range of its elements.
        apart: its elements differ by at least 0.01, so that small steps change no order among them.
        gradient: whether the op is differentiated by it.
    """

    shape: Shape
    low: float = -2.0
    high: float = 2.0
    apart: bool = False
    gradient: bool = True


@dataclass(frozen=True)
class Case:
    """An op to differentiate.

    Attributes:
        op: its type.
        inputs: values that are fed, arrays that are constants of the graph, None where one is left out.
        attributes: of the node.
        outputs: how many; those that are integers, or not in `seeded`, have no gradient fed.
        seeded: the outputs at which differentiation begins.
        since: the oldest opset that has the op in this form.
        until: the newest.
        domain: of the op.
        single: the op takes no type but float.
        note: what is special about it.
    """

    op: str
    inputs: tuple[In | np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    seeded: tuple[int, ...] = (0,)
    since: int = 13
    until: int = 99
    domain: str = ""
    single: bool = False
    note: str = ""

    def __str__(self) -> str:
        shapes = ",".join(
            "x".join(map(str, each.shape)) if isinstance(each, In) else _short(each.tolist())
            for each in self.inputs
            if isinstance(each, In) or (each is not None and each.dtype == np.int64 and each.size <= _SHOWN)
        )
        written = " ".join(f"{name}={_short(value)}" for name, value in self.attributes.items())
        return " ".join(part for part in (self.op, self.note, shapes, written) if part)


_SHOWN = 8  # elements of a constant


def _short(value: Any) -> str:
    return str(value).replace(" ", "")


_SIZES = {"N": 2, "M": 3, "K": 1}


def with_fixed_sizes(case: Case) -> Case:
    """The case with numbers for all sizes."""

    def fixed(each: In | np.ndarray | None) -> In | np.ndarray | None:
        if not isinstance(each, In):
            return each
        return dataclasses.replace(
            each, shape=tuple(_SIZES.get(size, size) if isinstance(size, str) else size for size in each.shape)
        )

    return dataclasses.replace(case, inputs=tuple(map(fixed, case.inputs)))


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


N = "N"
_WIDE = In((N, 3, 4))
_FLAT = In((5,))


def _unary(
    op: str, *, low: float = -2.0, high: float = 2.0, since: int = 13, single: bool = False, **attributes: Any
) -> list[Case]:
    """An op of one value, in two ranks."""
    shapes: list[Shape] = [(N, 3, 4), (2, N)]
    return [Case(op, (In(shape, low, high),), attributes, since=since, single=single) for shape in shapes]


def _binary(op: str, *, low: float = -2.0, high: float = 2.0, **attributes: Any) -> list[Case]:
    """An op of two values: equal shapes, one broadcast along each side, sizes that are not known to differ."""

    def case(a: Shape, b: Shape, note: str = "") -> Case:
        return Case(op, (In(a, low, high), In(b, low, high)), attributes, note=note)

    return [
        case((N, 3, 4), (N, 3, 4)),
        case((N, 3, 4), (3, 1)),
        case((1, 4), (N, 3, 4)),
        case((), (N, 2)),
        case((N, "M"), (N, "K"), "sizes found out at run time"),
    ]


ELEMENTWISE = [
    *_unary("Identity"),
    *(case for op in ("Add", "Sub", "Mul") for case in _binary(op)),
    *_binary("Div", low=0.5),
    *_binary("Pow", low=0.5),
    Case("Pow", (_WIDE, np.array(2.0)), note="square"),
    Case("Pow", (_WIDE, np.array(3.0)), note="cube"),
    Case("Pow", (_WIDE, np.array(1.0)), note="itself"),
    Case("Pow", (_WIDE, np.array(0.0)), note="one"),
    Case("Pow", (_WIDE, np.array([3], np.int64)), note="integer exponent"),
    Case("Mod", (In((N, 3), 1.1, 1.9), In((3,), 0.6, 1.0)), {"fmod": 1}),
    Case("Mod", (In((N, 3), -1.9, -1.1), In((N, 3), 0.6, 1.0)), {"fmod": 1}),
    *(
        case
        for op in ("Sum", "Mean", "Max", "Min")
        for case in (
            Case(op, (In((N, 3, 4)), In((3, 1)), In((4,)))),
            Case(op, (In((N, 3)),), note="one"),
            Case(op, (In((N, 2)), In((N, 2)))),
        )
    ),
    *(case for op in ("Neg", "Abs", "Exp", "Erf", "Sin", "Cos", "Atan") for case in _unary(op)),
    *(case for op in ("Reciprocal", "Sqrt", "Log") for case in _unary(op, low=0.5)),
    *(case for op in ("Sinh", "Cosh", "Asinh") for case in _unary(op)),
    *(case for op in ("Tan", "Asin", "Acos", "Atanh") for case in _unary(op, low=-0.9, high=0.9)),
    *_unary("Acosh", low=1.2),
    Case("Cast", (_WIDE,), {"to": 11}),
    Case("Cast", (_WIDE,), {"to": 1}, note="rounds"),
    Case("CastLike", (_WIDE, np.array([1.0])), since=15),
    Case("CastLike", (_FLAT, np.array([1.0], np.float32)), since=15, note="rounds"),
    Case("Where", (np.array([[True], [False], [True]]), In((N, 3, 4)), In((4,)))),
    Case("Where", (np.array([True, False]), In((2, 1)), In((N, 2, 2)))),
    Case("Clip", (_WIDE, np.array(-0.5), np.array(1.0))),
    Case("Clip", (_WIDE, None, In((), 0.4, 0.5))),
    Case("Clip", (_WIDE, In((), -0.5, -0.4))),
    Case("Clip", (In((N, 3, 4), -3, 9), np.array(0.0), np.array(6.0)), note="ReLU6"),
    *(
        Case("CumSum", (_WIDE, np.array(axis, np.int64)), {"reverse": reverse, "exclusive": exclusive})
        for axis, reverse, exclusive in ((1, 0, 0), (-1, 1, 0), (0, 0, 1), (2, 1, 1))
    ),
]

ACTIVATIONS = [
    *(case for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu") for case in _unary(op)),
    *_unary("Celu", alpha=1.5, single=True),
    *_unary("Elu", alpha=0.7),
    *_unary("Selu", alpha=1.2, gamma=0.8),
    *_unary("LeakyRelu"),
    *_unary("LeakyRelu", alpha=0.3),
    *_unary("ThresholdedRelu", alpha=0.5),
    *_unary("Shrink"),
    *_unary("Shrink", lambd=0.3, bias=0.1),
    *_unary("HardSigmoid", low=-4, high=4),
    *_unary("HardSigmoid", low=-4, high=4, alpha=0.3, beta=0.4),
    *_unary("HardSwish", low=-5, high=5, since=14),
    *_unary("Mish", since=18),
    *_unary("Gelu", since=20),
    *_unary("Gelu", since=20, approximate="tanh"),
    *_unary("Swish", since=24, alpha=1.5),
    Case("PRelu", (_WIDE, In((3, 1)))),
    Case("PRelu", (_WIDE, In((1,)))),
    *(Case(op, (_WIDE,), {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (-1, 1, 0)),
    Case("Softmax", (In((N, 5)),)),
    Case("LogSoftmax", (In((N, 5)),)),
    Case("Dropout", (_WIDE, np.array(0.4)), note="in inference"),
    Case("Dropout", (_WIDE, np.array(0.4), np.array(False)), outputs=2),
]

LINEAR = [
    *(
        Case("MatMul", (In(a), In(b)))
        for a, b in (
            ((N, 3), (3, 4)),
            ((N, 2, 3), (3, 4)),
            ((N, 2, 3), (N, 3, 4)),
            ((2, 3), (N, 3, 4)),
            ((N, 1, 2, 3), (5, 3, 2)),
            ((3,), (3, 4)),
            ((N, 3), (3,)),
            ((3,), (N, 3, 2)),
            ((3,), (3,)),
            ((N, "M"), ("M", 4)),
            ((N, 2, "M"), ("M", 4)),
        )
    ),
    *(
        Case("Gemm", (In((3, N) if a else (N, 3)), In((4, 3) if b else (3, 4)), In(c)), {"transA": a, "transB": b})
        for a, b, c in ((0, 0, (4,)), (0, 1, (4,)), (1, 0, (N, 4)), (1, 1, (1, 4)))
    ),
    Case("Gemm", (In((N, 3)), In((3, 4)), In(())), {"alpha": 0.5, "beta": 2.0}),
    Case("Gemm", (In((N, 3)), In((3, 4))), {"alpha": -1.5}),
    *(
        Case(
            "RotaryEmbedding",
            (In(shape), *np.random.default_rng(0).random((2, 5, 2)), places),
            {**more},
            since=23,
            single=True,
        )
        for shape, places, more in (
            ((2, 3, 2, 4), ints(0, 1, 3, 1).reshape(2, 2), {}),
            ((2, 2, 8), ints(4, 1, 3, 1).reshape(2, 2), {"num_heads": 2, "interleaved": 1}),
            ((2, 1, 2, 6), ints(4, 1, 3, 1).reshape(2, 2), {"rotary_embedding_dim": 4}),
        )
    ),
    Case("Einsum", (In((N, 3, 4)), In((4, 2))), {"equation": "bij,jk->bik"}),
    Case("Einsum", (In((N, 3, 2)), In((N, 4, 2))), {"equation": "nqc,nkc->nqk"}),
    Case("Einsum", (In((N, 3)), In((N, 4))), {"equation": "ab,ac"}, note="implicit"),
    Case("Einsum", (In((N, 3, 2)),), {"equation": "abc->ac"}, note="a sum"),
    Case("Einsum", (In((2, 3)), In((3, 4)), In((4, N))), {"equation": "ab,bc,cd->ad"}),
    Case("Einsum", (In((N, 2, 3)), In((3, 2))), {"equation": "...j,jk->...k"}, note="axes of an ellipsis"),
    Case("Einsum", (In((N, 2, 3)), In((1, 3, 2))), {"equation": "...ij,...jk"}, note="an ellipsis that broadcasts"),
    Case("Einsum", (In((2, N, 3)),), {"equation": "i...->..."}, note="a sum beside an ellipsis"),
    Case("Einsum", (In((N, 3)), In((N, 1))), {"equation": "bi,bi->b"}, note="broadcast and summed"),
    Case("Einsum", (In((N, 3)), In(("K", 3))), {"equation": "bi,bi->bi"}, note="broadcast by a size at run time"),
    Case("Einsum", (In((N, 3, 3)),), {"equation": "bii->bi"}, note="a diagonal"),
    Case("Einsum", (In((N, N)),), {"equation": "ii"}, note="a trace of an open size"),
    Case("Einsum", (In((2, 3, 2, 2)), In((2, N))), {"equation": "ijii,ik->jk"}, note="a letter three times"),
]

_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
_NORMS = ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare")


def _reduction(op: str, *, low: float = -2.0) -> list[Case]:
    data = In((N, 3, 4), low, apart=True)
    as_input, cases = 13 if op == "ReduceSum" else 18, []
    for axes, keep in (((1,), 1), ((-1, 0), 0), ((0, 1, 2), 0)):
        cases.append(Case(op, (data, ints(*axes)), {"keepdims": keep}, since=as_input))
        if op != "ReduceSum":
            cases.append(Case(op, (data,), {"keepdims": keep, "axes": axes}, until=17))
    return [*cases, Case(op, (data,)), Case(op, (data,), {"keepdims": 0})]


REDUCTIONS = [
    *(case for op in (*_REDUCTIONS, *_NORMS) for case in _reduction(op)),
    *_reduction("ReduceLogSum", low=0.5),
    Case("ReduceSum", (In((N, 3)), ints()), {"noop_with_empty_axes": 1}),
]

SHAPES = [
    Case("Reshape", (_WIDE, ints(-1, 12))),
    Case("Reshape", (In((N, "M", 4)), ints(-1, 2))),
    Case("Reshape", (In((N, 3, 4)), ints(0, -1))),
    Case("Flatten", (_WIDE,)),
    Case("Flatten", (In((2, N, 3)),), {"axis": 2}),
    Case("Flatten", (In((2, 3)),), {"axis": 0}),
    Case("Squeeze", (In((N, 1, 3, 1)), ints(1, -1))),
    Case("Squeeze", (In((1, N, 3)), ints(0))),
    Case("Unsqueeze", (In((N, 3)), ints(0, -1))),
    Case("Unsqueeze", (In(()), ints(0))),
    Case("Transpose", (_WIDE,)),
    Case("Transpose", (_WIDE,), {"perm": [1, 2, 0]}),
    Case("Expand", (In((3, 1)), ints(2, 3, 4))),
    Case("Expand", (In((N, 1)), ints(1, 5))),
    Case("Expand", (In((1,)), ints(3, 1, 2))),
    Case("Concat", (In((N, 2, 3)), In((N, 1, 3)), In((N, 4, 3))), {"axis": 1}),
    Case("Concat", (In((N, 2)), In(("M", 2))), {"axis": 0}),
    Case("Concat", (In((N, 2)), In((N, 3))), {"axis": -1}),
    Case("Concat", (In((N, 2)),), {"axis": 0}, note="one"),
    Case("Split", (In((N, 6)), ints(1, 2, 3)), {"axis": 1}, outputs=3, seeded=(0, 1, 2)),
    Case("Split", (In((N, 6)), ints(1, 2, 3)), {"axis": -1}, outputs=3, seeded=(1,), note="one part is read"),
    Case("Split", (In((6, N)),), {"axis": 0}, outputs=2, seeded=(0, 1), until=17),
    Case("Split", (In((N, 5)),), {"axis": 1, "num_outputs": 2}, outputs=2, seeded=(0, 1), since=18),
    *(Case("DepthToSpace", (In((N, 8, 2, 3)),), {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")),
    Case("DepthToSpace", (In((1, 12, N, 1)),), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (In((N, 2, 4, 6)),), {"blocksize": 2}),
    Case("SpaceToDepth", (In((1, 2, 3, 3)),), {"blocksize": 3}),
]


def _conv(op: str, x: Shape, w: Shape, *, bias: bool = False, note: str = "", **attributes: Any) -> Case:
    filters = w[0] if op == "Conv" else int(w[1]) * attributes.get("group", 1)
    return Case(op, (In(x), In(w), *([In((filters,))] if bias else [])), attributes, note=note)


CONVOLUTIONS = [
    Case("Conv", (In((N, 9, 2, 2)), In((10, 9, 1, 1)))),  # one product over the batch
    _conv("Conv", (N, 2, 5, 4), (3, 2, 3, 3), bias=True, pads=[1, 1, 1, 1]),
    _conv("Conv", (N, 2, 5, 4), (3, 2, 3, 2)),
    _conv("Conv", (N, 2, 5, 4), (4, 1, 3, 2), group=2, pads=[1, 0, 2, 1], note="depthwise"),
    _conv("Conv", (N, 2, 7), (2, 1, 3), group=2, dilations=[2], note="depthwise"),
    _conv("Conv", (N, 3, 5), (6, 1, 1), group=3, note="depthwise"),
    _conv("Conv", (N, 2, 5, 4), (3, 2, 1, 1), bias=True, note="one element"),
    _conv("Conv", (N, 2, 5, 4), (3, 2, 1, 1), strides=[2, 2], note="one element"),
    _conv("Conv", (N, 4, 5, 4), (6, 2, 1, 1), group=2, note="one element"),
    _conv("Conv", (N, 2, 3, 3), (3, 2, 1, 1), pads=[1, 1, 1, 1], note="one element"),
    _conv("Conv", (N, 2, 7, 6), (3, 2, 3, 3), bias=True, strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv("Conv", (N, 2, 6, 7), (3, 2, 2, 2), strides=[3, 3], note="a rest"),
    _conv("Conv", (N, 2, 6, 5), (2, 2, 2, 2), strides=[3, 4], pads=[0, 1, 0, 1], note="a rest"),
    _conv("Conv", (N, 3, 1), (4, 3, 1), strides=[3], pads=[1, 0], note="padding alone"),
    _conv("Conv", (N, 3, 1, 6), (4, 3, 1, 2), strides=[3, 1], pads=[1, 0, 0, 0], note="padding alone"),
    _conv(
        *("Conv", (N, 2, 6, 1, 3), (3, 2, 2, 1, 2)),
        strides=[2, 3, 2],
        pads=[0, 1, 0, 4, 0, 1],
        dilations=[1, 2, 2],
        note="padding alone",
    ),
    _conv("Conv", (N, 2, 7, 7), (3, 2, 3, 3), dilations=[2, 2], pads=[2, 1, 1, 2]),
    _conv("Conv", (N, 2, 7, 7), (3, 2, 2, 3), dilations=[3, 1]),
    _conv("Conv", (N, 2, 8, 8), (3, 2, 2, 3), dilations=[3, 2], strides=[2, 2], pads=[1, 0, 1, 2]),
    _conv("Conv", (N, 4, 5, 5), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    _conv("Conv", (N, 4, 6, 6), (4, 2, 3, 3), bias=True, group=2, strides=[2, 1], dilations=[1, 2]),
    _conv("Conv", (N, 3, 5, 5), (3, 1, 3, 3), bias=True, group=3, pads=[1, 1, 1, 1], note="depthwise"),
    _conv("Conv", (N, 3, 6, 6), (3, 1, 3, 2), group=3, strides=[2, 2], dilations=[2, 1], note="depthwise"),
    _conv("Conv", (N, 3, 6, 5), (3, 1, 5, 3), group=3, pads=[2, 1, 2, 1], strides=[2, 1], note="depthwise, large"),
    _conv("Conv", (N, 2, 9, 9), (2, 1, 4, 3), group=2, dilations=[1, 2], strides=[2, 2], note="depthwise, large"),
    _conv("Conv", (N, 2, 5, 5), (4, 1, 3, 3), group=2, pads=[1, 0, 1, 0], note="two filters a channel"),
    *(
        _conv("Conv", (N, 2, 6, 5), (3, 2, 3, 2), auto_pad=auto, strides=[2, 1])
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    _conv("Conv", (N, 64, 3, 4), (64, 64, 3, 2), pads=[1, 1, 1, 0], note="many channels"),
    _conv("Conv", (N, 64, 5), (65, 64, 2), dilations=[2], note="many channels"),
    _conv("Conv", (N, 2, 7), (3, 2, 3), bias=True, pads=[1, 1]),
    _conv("Conv", (N, 2, 9), (3, 2, 3), strides=[2], dilations=[2]),
    _conv("Conv", (N, 4, 7), (4, 1, 3), group=4, pads=[2, 0]),
    _conv("Conv", (N, 2, 3, 4, 3), (2, 2, 2, 3, 2), bias=True, pads=[0, 1, 1, 0, 1, 0]),
    _conv("Conv", (N, 2, 4, 4, 4), (2, 2, 2, 2, 2), strides=[2, 2, 2]),
    _conv("Conv", (N, 2, 4, 4, 4), (2, 1, 2, 2, 2), group=2, dilations=[2, 1, 2]),
    _conv("ConvTranspose", (N, 2, 4, 3), (2, 3, 3, 3), bias=True),
    _conv("ConvTranspose", (N, 2, 4, 3), (2, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv("ConvTranspose", (N, 2, 4, 3), (2, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    _conv("ConvTranspose", (N, 2, 3, 3), (2, 3, 2, 2), strides=[2, 2], bias=True),
    _conv("ConvTranspose", (N, 4, 3, 3), (4, 2, 3, 2), group=2, strides=[2, 1], dilations=[1, 2]),
    _conv("ConvTranspose", (N, 2, 3, 4), (2, 2, 3, 3), strides=[2, 2], output_shape=[6, 8]),
    _conv("ConvTranspose", (N, 2, 5), (2, 3, 3), strides=[3], bias=True),
    *(
        _conv("Conv", (N, 4, "M", "M"), (4, 4 // groups, *kernel), bias=True, group=groups, **attributes)
        for groups in (1, 2, 4)
        for kernel, attributes in (
            ((3, 3), {"pads": [1, 1, 1, 1]}),
            ((3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
            ((2, 3), {"pads": [0, 1, 1, 1], "strides": [1, 2], "dilations": [2, 1]}),
            ((1, 1), {"strides": [2, 2]}),
            ((1, 1), {}),
            ((1, 2), {"pads": [0, 2, 0, 2], "dilations": [1, 2]}),
        )
    ),
    _conv("Conv", (N, 64, "M"), (65, 64, 2), note="many channels"),
    _conv("Conv", (N, 2, "M", 5), (3, 2, 2, 2), strides=[2, 2]),
    _conv("ConvTranspose", (N, 2, "M", "M"), (2, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    _conv("ConvTranspose", (N, 4, "M", "M"), (4, 2, 2, 2), group=2, strides=[2, 2], bias=True),
    _conv("ConvTranspose", (N, 2, "M"), (2, 3, 3), dilations=[2]),
    _conv("ConvTranspose", (N, 2, 2, 3, 2), (2, 2, 2, 2, 2), strides=[2, 2, 2]),
]


def _pools(op: str, **more: Any) -> list[Case]:
    """Windows that tile the data, that overlap, with padding, in one to three axes."""

    def case(shape: Shape, kernel: list[int], **attributes: Any) -> Case:
        low = 0.2 if op == "LpPool" else -2.0
        return Case(op, (In(shape, low, apart=True),), {"kernel_shape": kernel, **more, **attributes})

    return [
        case((N, 2, 4, 6), [2, 2], strides=[2, 2]),
        case((N, 2, 4, 6), [2, 3], strides=[2, 3]),
        case((N, 2, 5, 4), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        case((N, 2, 5, 4), [3, 2]),
        case((N, 2, 5, 5), [2, 2], strides=[2, 2]),
        case((N, 2, 5, 5), [3, 3], strides=[1, 1], auto_pad="SAME_UPPER"),
        case((N, 2, 6), [3], strides=[2], pads=[1, 0]),
        case((N, 2, "M", "M"), [2, 2], strides=[2, 2]),
        case((N, 2, "M", "M"), [3, 2], strides=[2, 1], pads=[1, 1, 1, 0]),
        case((N, 1, 3, 4, 3), [2, 2, 2], strides=[1, 2, 1]),
    ]


POOLINGS = [
    *_pools("MaxPool"),
    *_pools("AveragePool"),
    *_pools("AveragePool", count_include_pad=1),
    *_pools("LpPool"),
    *(
        Case(op, (In((N, 2, 6, 7), apart=True),), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, **more})
        for op in ("MaxPool", "AveragePool")
        for more in ({}, {"pads": [1, 1, 1, 1]})
    ),
    Case(
        "AveragePool",
        (In((N, 2, 6, 7)),),
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    Case("MaxPool", (In((N, 2, 7, 7), apart=True),), {"kernel_shape": [2, 3], "dilations": [3, 2]}),
    Case("AveragePool", (In((N, 2, 7, 7)),), {"kernel_shape": [2, 3], "dilations": [3, 2]}, since=19),
    Case("LpPool", (In((N, 2, 5, 4), 0.2),), {"kernel_shape": [2, 2], "p": 3}),
    Case("LpPool", (In((N, 2, 4, 4), 0.2),), {"kernel_shape": [2, 2], "p": 1, "strides": [2, 2]}),
    *(
        Case(op, (In(shape, apart=True),))
        for op in ("GlobalAveragePool", "GlobalMaxPool")
        for shape in ((N, 2, 3, 4), (N, 3, 5), (N, 2, 2, 2, 2))
    ),
    Case("GlobalAveragePool", (In((N, 2, "M", "M")),)),
    Case("GlobalLpPool", (In((N, 2, 3, 4)),)),
    Case("GlobalLpPool", (In((N, 2, 3)),), {"p": 3}),
]

_floats = np.float32


def _resize(shape: Shape, scales: list[float] | None, sizes: list[int] | None = None, **attributes: Any) -> Case:
    by = (None, np.array(scales, np.float32)) if scales else (None, None, ints(*sizes or ()))
    return Case("Resize", (In(shape), *by), attributes, since=attributes.pop("since", 13))


_REPEAT = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

#: Channels are as samples are; the evaluator of older versions of onnx takes seconds for each.
RESIZES = [
    _resize((1, 2, 3, 2), [1, 1, 2, 2], **_REPEAT),
    _resize((N, 1, 3, 2), [1, 1, 2, 3], mode="nearest", coordinate_transformation_mode="half_pixel"),
    _resize((N, 1, 4, 4), [1, 1, 0.5, 0.5], mode="nearest", coordinate_transformation_mode="asymmetric"),
    _resize((N, 1, 4, 3), [1, 1, 1.5, 2], mode="nearest", nearest_mode="ceil"),
    _resize((N, 2, 3, 2), [1, 1, 2, 2], mode="linear"),
    _resize((N, 1, 3, 4), [1, 1, 2, 2], mode="linear", coordinate_transformation_mode="align_corners"),
    _resize((N, 1, 3, 4), [1, 1, 2, 1.5], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    _resize((N, 1, 4, 6), [1, 1, 0.5, 0.5], mode="linear"),
    _resize((N, 1, 4, 3), [1, 1, 2, 2], mode="cubic"),
    _resize((N, 2, 3), [1, 1, 2], **_REPEAT),
    _resize((N, 2, 3), [1, 1, 2], mode="linear"),
    Case("Resize", (In((2, 2, 3, 4)), None, None, ints(2, 2, 6, 7)), {"mode": "linear"}),
    Case("Resize", (In((N, 2, 3, 4)), None, np.array([2.0, 3.0], _floats)), {"axes": [2, 3]}, since=18),
    Case("Resize", (In((N, 2, 3, 4)), None, None, ints(6, 7)), {"axes": [2, 3], "mode": "linear"}, since=18),
]

_IMAGE, _GRID = In((N, 2, 4, 5)), In((N, 3, 2, 2), -1.4, 1.4)

SAMPLINGS = [
    Case("GridSample", (_IMAGE, _GRID), since=16),
    Case("GridSample", (_IMAGE, _GRID), {"align_corners": 1}, since=16),
    Case("GridSample", (_IMAGE, _GRID), {"padding_mode": "border"}, since=16),
    Case("GridSample", (_IMAGE, _GRID), {"padding_mode": "border", "align_corners": 1}, since=20),
    Case("GridSample", (In((2, 1, 1, 3)), In((2, 1, 4, 2), -0.9, 0.9)), {"mode": "linear"}, since=20),
    Case("GridSample", (_IMAGE, dataclasses.replace(_GRID, gradient=False)), {"mode": "nearest"}, since=16),
]

#: x and y of one corner, and of the other; parts of some are outside the image.
_REGIONS = np.array([[0.3, 0.4, 3.7, 2.9], [-1.3, 0.2, 2.4, 5.2], [1.1, 1.3, 1.6, 6.3]])
_OF_IMAGES = np.array([1, 0, 1])

REGIONS = [
    Case("RoiAlign", (_IMAGE, _REGIONS, _OF_IMAGES), {**more, "sampling_ratio": 2}, since=16)
    for more in (
        {},
        {"output_height": 2, "output_width": 3},
        {"output_height": 2, "spatial_scale": 0.5, "coordinate_transformation_mode": "output_half_pixel"},
    )
]

_BOTH = {"group": 2, "offset_group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1], "dilations": [1, 2]}

DEFORMED = [
    Case("DeformConv", (_IMAGE, In((3, 2, 2, 3)), In((N, 12, 3, 3), -0.9, 0.9)), since=19),
    Case(
        "DeformConv",
        (In((N, 4, 4, 5)), In((2, 2, 2, 2)), In((N, 16, 3, 5), -0.9, 0.9), In((2,)), In((N, 8, 3, 5))),
        _BOTH,
        since=19,
    ),
]

SELECTIONS = [
    Case("OneHot", (np.array([1, 0, 2]), np.array(3, np.int64), In((2,)))),
    Case("OneHot", (np.array([[1, 0], [2, 1]]), np.array(3, np.int64), In((2,))), {"axis": 1}),
    Case("Gather", (In((5, 3)), np.array([[1, 3], [1, 0]]))),
    Case("Gather", (In((N, 5, 2)), np.array([[1, 3], [1, -2]])), {"axis": 1}),
    Case("Gather", (In((5, 3)), np.array([[-1, 3], [4, 0]])), since=16),
    Case("Gather", (In((N, 4, 2)), np.array([0, 2])), {"axis": 1}),
    Case("Gather", (In((N, 4, 2)), np.array([2, 2, -1])), {"axis": 1}, since=16),
    Case("Gather", (In((N, 4, 2)), np.array(2)), {"axis": 1}, note="one"),
    Case("Gather", (In((N, 4, 2)), np.array(-1)), {"axis": -1}, note="one"),
    Case("Gather", (In((N, 4, 2)), np.array([[1]])), {"axis": 1}, note="one"),
    Case("Gather", (In((2, N, 3)), np.array([1, 0, 1])), {"axis": 2}, since=16),
    Case("GatherElements", (In((3, 4)), np.array([[0, 2, 2], [1, 0, 3]])), {"axis": 1}, since=16),
    Case("GatherElements", (In((3, 4)), np.array([[0, 2, 2, -1]])), since=16),
    Case("GatherND", (In((3, 4)), np.array([[0, 2], [1, 1], [0, 2]])), since=16),
    Case("GatherND", (In((3, 2, 2)), np.array([[2], [2], [-1]])), since=16),
    Case("GatherND", (In((2, 3, 2)), np.array([[[0], [2]], [[1], [1]]])), {"batch_dims": 1}, since=16),
    Case("GatherND", (In((2, 2, 3)), np.array([[[1], [0]], [[2], [-1]]])), {"batch_dims": 2}, since=16),
    Case("GatherND", (In((2, 2, 3)), np.array([[1, 0], [0, 2]])), {"batch_dims": 1}, since=16, note="one for each"),
    Case("ScatterElements", (In((3, 4)), np.array([[0, 3], [2, 1]]), In((2, 2))), {"axis": 1}),
    Case("ScatterElements", (In((3, 4)), np.array([[0, 2, 1]]), In((1, 3)))),
    Case("ScatterElements", (In((3, 4)), np.array([[0, 0]]), In((1, 2))), {"axis": 1, "reduction": "add"}, since=16),
    Case("ScatterND", (In((3, 4)), np.array([[0, 3], [2, 1]]), In((2,)))),
    Case("ScatterND", (In((3, 4)), np.array([[1], [1]]), In((2, 4))), {"reduction": "add"}, since=16),
    Case("TopK", (In((N, 5), apart=True), ints(2)), outputs=2),
    Case("TopK", (In((4, N, 2), apart=True), ints(3)), {"axis": 0, "largest": 0}, outputs=2),
    Case("Compress", (In((N, 4)), np.array([True, False, True])), {"axis": 1}),
    Case("Compress", (In((2, 3)), np.array([True, False, True, True]))),
    Case("Trilu", (In((N, 3, 4)),), since=14),
    Case("Trilu", (In((N, 3, 4)), np.array(1, np.int64)), {"upper": 0}, since=14),
    Case("ReverseSequence", (In((4, 3, 2)), np.array([1, 3, 4]))),
    Case("ReverseSequence", (In((3, N)), np.array([1, 2, 2])), {"batch_axis": 0, "time_axis": 1}),
]


def _slice(shape: Shape, starts: list[int], ends: list[int], axes: list[int], steps: list[int] | None = None) -> Case:
    given = (ints(*starts), ints(*ends), ints(*axes), *([ints(*steps)] if steps else []))
    return Case("Slice", (In(shape), *given))


PARTS = [
    _slice((N, 5, 4), [1], [3], [1]),
    _slice((N, 5, 4), [-3, 0], [2**31, -1], [1, -1]),
    _slice((N, 5, 4), [0], [5], [1], [2]),
    _slice((N, 6, 4), [1, 3], [6, 0], [1, 2], [3, -1]),
    _slice((N, 7), [-1], [-(2**31)], [1], [-2]),
    _slice((N, 7), [-2], [1], [1], [-3]),
    _slice((N, 7), [100], [-100], [-1], [-1]),
    _slice((N, 3), [1], [2**31], [0]),
    _slice((N, 3), [-1], [2**31], [0]),
    _slice((N, 3), [-1], [-(2**31)], [0], [-1]),
    _slice((N, 3), [0], [2**31], [0], [2]),
    Case("Slice", (In((4, 3)), ints(1, 0), ints(3, 2))),
    Case("Pad", (_WIDE, ints(0, 1, 2, 0, 0, 1))),
    Case("Pad", (_WIDE, ints(0, 1, -1, 0, -1, 2), np.array(1.5))),
    Case("Pad", (_WIDE, ints(0, 2, 1, 0, 1, 0)), {"mode": "reflect"}),
    Case("Pad", (_WIDE, ints(0, 2, 1, 0, 1, 3)), {"mode": "edge"}),
    Case("Pad", (In((N, 2, 3, 3)), ints(0, 0, 1, 1, 0, 0, 1, 2)), {"mode": "reflect"}),
    Case("Pad", (_WIDE, ints(1, 2), None, ints(1)), since=18),
    Case("Pad", (_WIDE, ints(1, 0, 2, 1), None, ints(-1, 1)), {"mode": "edge"}, since=18),
    Case("Tile", (In((N, 3)), ints(1, 2))),
    Case("CenterCropPad", (In((4, 7)), ints(6, 3)), since=20),
    Case("Tile", (In((N, 1, 2)), ints(3, 2, 2))),
]

_CHANNELS = (In((3,)), In((3,)), In((3,)))
_VARIANCE = In((3,), 0.5, 2.0)
_FIXED = In((3,), 0.5, 2.0, gradient=False)

NORMALIZATIONS = [
    Case("LayerNormalization", (In((N, 3, 4)), In((4,)), In((4,))), since=17),
    Case("LayerNormalization", (In((N, 3, 4)), In((3, 4))), {"axis": 1, "epsilon": 0.1}, since=17),
    Case("RMSNormalization", (In((N, 3, 4)), In((4,))), since=23),
    Case("RMSNormalization", (In((N, 3, 4)), In((3, 4))), {"axis": 1, "epsilon": 0.1}, since=23),
    Case("InstanceNormalization", (In((N, 2, 3, 4)), In((2,)), In((2,)))),
    Case("InstanceNormalization", (In((N, 3, 5)), In((3,)), In((3,))), {"epsilon": 0.1}),
    Case("GroupNormalization", (In((N, 4, 3, 2)), In((2,)), In((2,))), {"num_groups": 2}, since=18, until=20),
    Case("GroupNormalization", (In((N, 4, "M")), In((1,)), In((1,))), {"num_groups": 1}, since=18, until=20),
    Case("GroupNormalization", (In((N, 4, 3, 2)), In((4,)), In((4,))), {"num_groups": 2, "stash_type": 11}, since=21),
    Case(
        "GroupNormalization",
        (In((N, 4, 3)), In((4,)), In((4,))),
        {"num_groups": 4, "epsilon": 0.1, "stash_type": 11},
        since=21,
    ),
    Case("LpNormalization", (In((N, 3, 4)),)),
    Case("LpNormalization", (In((N, 3, 4)),), {"axis": 1, "p": 1}),
    Case("LRN", (In((N, 5, 2, 2)),), {"size": 3, "alpha": 0.5}, single=True),
    Case("LRN", (In((N, 4, 3, 1)),), {"size": 5, "alpha": 0.9, "beta": 0.5, "bias": 2.0}, single=True),
    *(
        Case(
            *(
                "BatchNormalization",
                (In(shape), *_CHANNELS[:2], *[_FIXED] * 2),
                {"epsilon": epsilon, "training_mode": 1},
                3,
            ),
            since=15,
            note="training",
        )
        for shape, epsilon in (((N, 3, 4), 1e-3), ((N, 3, 2, 2), 0.1))
    ),
    *(
        Case("BatchNormalization", (In(shape), *_CHANNELS, _VARIANCE), {"epsilon": epsilon}, since=15)
        for shape, epsilon in (((N, 3, 4), 1e-5), ((N, 3, 2, 2), 0.1), ((N, 3), 1e-3))
    ),
]

_LOSSES = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")

LOSSES = [
    *(Case(op, (In((3, 4)), np.array([1, 3, 0]))) for op in _LOSSES),
    *(Case(op, (In((3, 4)), np.array([1, 3, 0]), np.array([0.5, 1.0, 2.0, 3.0]))) for op in _LOSSES),
    *(Case(op, (In((3, 4)), np.array([1, -100, 0])), {"ignore_index": -100}) for op in _LOSSES),
    *(
        Case(op, (In((2, 4, 3)), np.array([[1, 3, 0], [2, 2, 1]]), np.array([0.5, 1.0, 2.0, 3.0])), {"reduction": how})
        for op in _LOSSES
        for how in ("none", "sum", "mean")
    ),
    Case(
        "SoftmaxCrossEntropyLoss",
        (In((2, 4, 3)), np.array([[1, 3, 0], [2, 2, 1]]), np.array([0.5, 1.0, 2.0, 3.0])),
        {"ignore_index": 2, "reduction": "mean"},
        outputs=2,
        seeded=(0, 1),
        note="and log_prob",
    ),
    Case("SoftmaxCrossEntropyLoss", (In((3, 4)), np.array([1, 3, 0])), outputs=2, seeded=(1,), note="by log_prob"),
]


def _ours(op: str, *vectors: In, seeded: tuple[int, ...] = (0,), count: int = 12, **attributes: Any) -> list[Case]:
    """An op of ours, with the channels second and last, and a count if it takes one."""
    operator = OPERATORS[op]
    written = {each.name: attributes.get(each.name, each.default) for each in operator.attributes}
    if "stash_type" in written:
        written["stash_type"] = 11
    cases = []
    for shape, axis in (((N, 3, 2), 1), ((N, 2, 2, 3), -1)):
        vector = iter(vectors)
        inputs: list[In | np.ndarray | None] = []
        for each in operator.inputs:
            if each.shape == "X":
                inputs.append(In(shape, gradient=each.name != "Y"))
            elif each.type == "int64":
                inputs.append(np.array(count, np.int64))
            else:
                inputs.append(next(vector, In((3,), 0.5, 1.5)))
        axes = {"axis": axis} if "axis" in written else {}
        outputs = len(operator.outputs)
        cases.append(Case(op, tuple(inputs), {**written, **axes}, outputs, seeded, since=15, domain=DOMAIN))
    return cases


_STATISTIC = In((3,), 0.5, 1.5, gradient=False)

CHANNEL_OPS = [
    *_ours("ChannelStats", seeded=(0, 1)),
    *_ours("ChannelStats", seeded=(1,)),
    *_ours("ChannelNormalize", epsilon=0.1),
    *_ours("ChannelBackpropStats", seeded=(0, 1)),
    *_ours("ChannelBackpropStats", seeded=(1,)),
    *(case for count in (12, 0) for case in _ours("ChannelBackprop", count=count)),
    *(
        case
        for count in (12, 1, 0)
        for unbiased in (0, 1)
        for case in _ours("RunningStats", momentum=0.8, unbiased=unbiased, count=count)
    ),
    *_ours("BatchNormTrain", seeded=(0,), epsilon=0.1),
    *_ours("BatchNormTrain", seeded=(0, 1, 2), epsilon=0.1),
    *(
        case
        for relu in (0, 1)
        for seeded in ((0,), (0, 1, 2))
        for case in _ours(
            *("BatchNormTrainUpdate", In((3,)), In((3,)), _STATISTIC, _STATISTIC), seeded=seeded, epsilon=0.1, relu=relu
        )
    ),
    *_ours("BatchNormReluTrainUpdate", In((3,)), In((3,)), _STATISTIC, _STATISTIC, seeded=(0, 1), epsilon=0.1),
    *_ours("BatchNormGrad", seeded=(0, 1, 2)),
    *_ours("BatchNormGrad", seeded=(0,)),
    *_ours("BatchNormReluGrad", seeded=(0, 1, 2)),
    *_ours("BatchNormRecomputeReluGrad", In((3,)), In((3,)), In((3,)), _STATISTIC, _STATISTIC, seeded=(0, 1, 2)),
    Case(
        "ChannelStatsMerge",
        (In((2, 3)), In((2, 3), 0.5, 2.0), ints(3, 5)),
        outputs=3,
        seeded=(0, 1),
        since=15,
        domain=DOMAIN,
    ),
    Case("ChannelStatsMerge", (In((3, 2)), In((3, 2)), ints(4, 0, 1)), {}, 3, (1,), since=15, domain=DOMAIN),
    Case("ChannelStatsMerge", (In((2, 3)), In((2, 3)), ints(0, 0)), {}, 3, (0, 1), since=15, domain=DOMAIN),
    *(
        Case(
            "DepthwiseConvGradWeight",
            (In((N, 2, *size)), In((N, 2 * multiplier, *count))),
            {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations},
            since=15,
            domain=DOMAIN,
        )
        for size, count, multiplier, kernel, strides, pads, dilations in (
            ((6,), (3,), 2, (3,), (2,), (0, 1), (1,)),
            ((5, 4), (5, 3), 1, (3, 2), (1, 1), (1, 0, 1, 0), (1, 1)),
            ((6, 5), (2, 3), 1, (2, 2), (3, 2), (0, 1, 0, 1), (2, 1)),
            ((2, 3, 4), (2, 1, 2), 1, (1, 3, 2), (1, 1, 2), (0, 0, 0, 0, 0, 0), (1, 1, 1)),
        )
    ),
    *(
        Case(
            op,
            (In((N, 2, *size)), In(other)),
            {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations},
            since=15,
            domain=DOMAIN,
        )
        for size, count, kernel, strides, pads, dilations in (
            ((6,), (3,), (3,), (2,), (0, 1), (1,)),
            ((5, 4), (5, 3), (3, 2), (1, 1), (1, 0, 1, 0), (1, 1)),
            ((6, 5), (2, 3), (2, 2), (3, 2), (0, 1, 0, 1), (2, 1)),
        )
        for op, other in (
            ("DirectConv", (3, 2, *kernel)),
            ("DirectConvExchanged", (2, 3, *kernel)),
            ("ConvGradWeight", (N, 3, *count)),
        )
    ),
]


def _recurrent(op: str, *more: In | None, directions: int = 1, outputs: int = 1, **attributes: Any) -> Case:
    """Three steps of two elements, with a hidden state of two."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op] * 2
    weights = (In((directions, gates, 2)), In((directions, gates, 2)))
    seeded = tuple(range(outputs))
    return Case(op, (In((3, N, 2)), *weights, *more), {"hidden_size": 2, **attributes}, outputs, seeded, since=14)


_REFERENCE_KNOWS_RECURRENT = 25  # opset of an onnx that was tried
_BOTH = (In((2, N, 2)), In((2, N, 2)))
RECURRENT = [
    _recurrent("RNN"),
    _recurrent("RNN", In((1, 4)), None, In((1, N, 2)), outputs=2),
    _recurrent("GRU"),
    _recurrent("GRU", In((1, 12)), outputs=2, direction="reverse"),
    _recurrent("GRU", In((1, 12)), linear_before_reset=1),
    _recurrent("GRU", In((2, 12)), None, _BOTH[0], directions=2, linear_before_reset=1, direction="bidirectional"),
    _recurrent("GRU", In((1, 12)), None, In((1, N, 2)), outputs=2),
    _recurrent("LSTM"),
    _recurrent("LSTM", In((1, 16)), outputs=3),
    _recurrent("LSTM", In((2, 16)), None, *_BOTH, directions=2, outputs=3, direction="bidirectional"),
]

CASES = [
    *ELEMENTWISE,
    *ACTIVATIONS,
    *LINEAR,
    *REDUCTIONS,
    *SHAPES,
    *CONVOLUTIONS,
    *POOLINGS,
    *RESIZES,
    *SAMPLINGS,
    *REGIONS,
    *DEFORMED,
    *SELECTIONS,
    *PARTS,
    *NORMALIZATIONS,
    *LOSSES,
    *CHANNEL_OPS,
    # The reference of older versions knows neither directions nor states that are left out.
    *(RECURRENT if onnx.defs.onnx_opset_version() >= _REFERENCE_KNOWS_RECURRENT else []),
]
