"""Cases for the gradient rules, as data: an op, its inputs, its attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
        shapes = ",".join("x".join(map(str, each.shape)) for each in self.inputs if isinstance(each, In))
        written = " ".join(f"{name}={_short(value)}" for name, value in self.attributes.items())
        return " ".join(part for part in (self.op, self.note, shapes, written) if part)


def _short(value: Any) -> str:
    return str(value).replace(" ", "")


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
    Case("Einsum", (In((N, 3, 4)), In((4, 2))), {"equation": "bij,jk->bik"}),
    Case("Einsum", (In((N, 3, 2)), In((N, 4, 2))), {"equation": "nqc,nkc->nqk"}),
    Case("Einsum", (In((N, 3)), In((N, 4))), {"equation": "ab,ac"}, note="implicit"),
    Case("Einsum", (In((N, 3, 2)),), {"equation": "abc->ac"}, note="a sum"),
    Case("Einsum", (In((2, 3)), In((3, 4)), In((4, N))), {"equation": "ab,bc,cd->ad"}),
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

CASES = [*ELEMENTWISE, *ACTIVATIONS, *LINEAR, *REDUCTIONS, *SHAPES]
