"""Values as polynomials in X, per-channel vectors and powers of sums: what they are, however they are spelled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir

from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input, reduced_axes

BINARY = ("Add", "Sub", "Mul", "Div")
MOVES = ("Identity", "Reshape", "Unsqueeze", "Squeeze")
_CASTS = ("Cast", "CastLike")
MOST_NODES = 64  # of one expression; far more than any spelling has
_MOST_TERMS = 12

# Equal atoms are equal values: a value by identity, ("mean", terms) and ("sum", terms) by what they are made of.
Atom = ir.Value | tuple[str, frozenset[tuple["Monomial", float]]]
Monomial = frozenset[tuple[Atom, Fraction]]
Terms = dict[Monomial, float]

ONE: Monomial = frozenset()
HALF = Fraction(1, 2)


class NotPolynomialError(Exception):
    """An expression that is not of the kind."""


@dataclass(frozen=True)
class Polynomial:
    """What a value is.

    Attributes:
        terms: coefficients by monomial.
        position: the axis of its channels counted from the last one, as broadcasting does; None for a number, and for
            what has X in it alone.
        full: whether X is in it; otherwise it is a vector or a number.
    """

    terms: Terms
    position: int | None = None
    full: bool = False


class Reader:
    """Reads values as polynomials in X and vectors.

    Attributes:
        X, shape: the data.
        channels: the axes of X, counted from the last, that its reductions leave.
        means, variances: the values that are those of X.
    """

    def __init__(self, X: ir.Value, last: ir.Node, types: Types) -> None:
        self.X = X
        self._understood: dict[ir.Node, None] = {}
        self.channels: set[int] = set()
        self.means: list[ir.Value] = []
        self.variances: list[ir.Value] = []
        self._graph = last.graph
        self._types = types
        self.shape = types.shape(X)
        self._known: dict[ir.Value, Polynomial | None] = {}
        X_term: Monomial = frozenset({(X, Fraction(1))})
        self.mean: Atom = ("mean", frozenset({(X_term, 1.0)}))
        self.batch_mean: Terms = {frozenset({(self.mean, Fraction(1))}): 1.0}
        centred = add({X_term: 1.0}, self.batch_mean, -1)
        squares: Atom = ("mean", frozenset(multiply({X_term: 1.0}, {X_term: 1.0}).items()))
        spread: Atom = ("mean", frozenset(multiply(centred, centred).items()))
        self.batch_variance: tuple[Terms, ...] = (
            {frozenset({(spread, Fraction(1))}): 1.0},
            add({frozenset({(squares, Fraction(1))}): 1.0}, multiply(self.batch_mean, self.batch_mean), -1),
        )

    def read(self, value: ir.Value | None) -> Polynomial:
        """What a value is.

        Raises:
            NotPolynomialError: nothing of the kind.
        """
        if value is None:
            raise NotPolynomialError
        if value not in self._known:
            self._known[value] = None  # a loop is none
            self._known[value] = self._read(value)
        known = self._known[value]
        if known is None:
            raise NotPolynomialError
        return known

    def interior(self, node: ir.Node) -> dict[ir.Node, None]:
        """The nodes that a node's result was read from, in no order."""
        found: dict[ir.Node, None] = {}
        waiting = [node]
        while waiting:
            producers = [None if value is None else value.producer() for value in waiting.pop().inputs]
            new = [p for p in producers if p is not None and p not in found and p in self._understood]
            found.update(dict.fromkeys(new))
            waiting += new
        return found

    def _read(self, value: ir.Value) -> Polynomial | None:
        if value is self.X:
            return Polynomial({frozenset({(value, Fraction(1))}): 1.0}, None, True)
        number = self._number(value)
        if number is not None:
            return Polynomial({ONE: number} if number else {})
        node = value.producer()
        if node is not None and node.domain == "" and node.graph is self._graph and len(self._understood) < MOST_NODES:
            try:
                result = self._of_node(node)
                if len(result.terms) > _MOST_TERMS:
                    raise NotPolynomialError
                self._understood[node] = None
                if result.terms == self.batch_mean:
                    self.means.append(value)
                if result.terms in self.batch_variance:
                    self.variances.append(value)
                return result
            except NotPolynomialError:
                pass  # it may yet be a vector of whatever origin
        position = self._position(value)
        return None if position is None else Polynomial({frozenset({(value, Fraction(1))}): 1.0}, position)

    def _number(self, value: ir.Value) -> float | None:
        """The number that a constant of one element is, in the types that it is cast to; None where it may be fed."""
        types: list[ir.DataType | None] = []
        while (node := value.producer()) is not None and node.domain == "" and node.op_type in (*_CASTS, *MOVES):
            source = node.inputs[0]
            if source is None:
                return None
            types.append(self._types.of(value) if node.op_type in _CASTS else ir.DataType.DOUBLE)
            value = source
        tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
        if tensor is None or math.prod(tensor.shape.numpy()) != 1:
            return None
        number = tensor.numpy().reshape(-1)[0]
        for dtype in reversed(types):
            if dtype is None:
                return None
            number = number.astype(dtype.numpy())
        return float(number)

    def _position(self, value: ir.Value) -> int | None:
        """The axis of a vector's channels, counted from the last; None where it is no vector."""
        shape = self._types.shape(value)
        wide = [index for index, size in enumerate(shape or ()) if size != 1]
        return len(shape) - 1 - wide[0] if shape is not None and len(wide) == 1 else None

    def _of_node(self, node: ir.Node) -> Polynomial:
        inputs = [self.read(value) for value in node.inputs[: 2 if node.op_type in (*BINARY, "Pow", "Max") else 1]]
        if not inputs or (len(inputs) == 1 and node.op_type in (*BINARY, "Pow")):  # a constant; what is not valid
            raise NotPolynomialError
        first = inputs[0]
        if node.op_type in BINARY:
            return self._binary(node.op_type, first, inputs[1])
        if node.op_type in MOVES:
            return first if node.op_type == "Identity" else self._moved(first, node.outputs[0])
        if node.op_type == "ReduceMean":
            return self._reduced(node, first)
        if node.op_type == "Neg":
            return Polynomial(add({}, first.terms, -1), first.position, first.full)
        if node.op_type == "Reciprocal":
            return self._power(first, Fraction(-1))
        if node.op_type == "Sqrt":
            return self._power(first, HALF)
        if node.op_type == "Pow" and set(inputs[1].terms) <= {ONE}:
            return self._power(first, Fraction(inputs[1].terms.get(ONE, 0.0)))
        clipped = node.op_type == "Relu" or (node.op_type == "Max" and len(node.inputs) == 2 and not inputs[1].terms)
        if (clipped or self._clips_at_zero(node)) and first.terms in self.batch_variance:
            return first  # no variance is below zero but by rounding
        raise NotPolynomialError

    def _clips_at_zero(self, node: ir.Node) -> bool:
        """Whether a node is a Clip from 0 on, without an upper end."""
        if node.op_type != "Clip":
            return False
        if "min" in node.attributes:  # before opset 11
            return attribute(node, "min", 0.0) == 0.0 and "max" not in node.attributes
        lower, upper = optional_input(node, 1), optional_input(node, 2)
        return lower is not None and upper is None and not self.read(lower).terms

    def _binary(self, op_type: str, left: Polynomial, right: Polynomial) -> Polynomial:
        positions = {p for p in (left.position, right.position) if p is not None}
        if len(positions) > 1:  # an outer product
            raise NotPolynomialError
        position, full = next(iter(positions), None), left.full or right.full
        if op_type in ("Add", "Sub"):
            return Polynomial(add(left.terms, right.terms, 1 if op_type == "Add" else -1), position, full)
        if op_type == "Div":
            right = self._power(right, Fraction(-1))
        return Polynomial(multiply(left.terms, right.terms), position, full)

    def _power(self, base: Polynomial, exponent: Fraction) -> Polynomial:
        if exponent == 2:
            return Polynomial(multiply(base.terms, base.terms), base.position, base.full)
        if base.full or not base.terms or exponent not in (-1, HALF, -HALF):
            raise NotPolynomialError
        if len(base.terms) == 1:
            ((monomial, coefficient),) = base.terms.items()
            if exponent == -1 or coefficient == 1:
                raised = frozenset((atom, power * exponent) for atom, power in monomial)
                return Polynomial({raised: coefficient ** float(exponent)}, base.position)
        atom: Atom = ("sum", frozenset(base.terms.items()))
        return Polynomial({frozenset({(atom, exponent)}): 1.0}, base.position)

    def _moved(self, moved: Polynomial, result: ir.Value) -> Polynomial:
        if moved.position is None:
            if moved.full:
                raise NotPolynomialError
            return moved
        position = self._position(result)
        if position is None:
            raise NotPolynomialError
        return Polynomial(moved.terms, position)

    def _reduced(self, node: ir.Node, reduced: Polynomial) -> Polynomial:
        shape, axes = self.shape, reduced_axes(node)
        if not reduced.full or shape is None or not axes:
            raise NotPolynomialError
        rank = len(shape)
        left = set(range(rank)) - {axis % rank for axis in axes}
        if len(left) != 1 or rank < 2:
            raise NotPolynomialError
        channels = rank - 1 - left.pop()
        if reduced.position not in (None, channels):
            raise NotPolynomialError
        self.channels.add(channels)
        atom: Atom = ("mean", frozenset(reduced.terms.items()))
        position = channels if attribute(node, "keepdims", 1) else 0
        return Polynomial({frozenset({(atom, Fraction(1))}): 1.0}, position)


def add(left: Terms, right: Terms, sign: int) -> Terms:
    result = dict(left)
    for monomial, coefficient in right.items():
        result[monomial] = result.get(monomial, 0.0) + sign * coefficient
    return {monomial: coefficient for monomial, coefficient in result.items() if coefficient}


def multiply(left: Terms, right: Terms) -> Terms:
    if len(left) * len(right) > _MOST_TERMS**2:
        raise NotPolynomialError
    result: Terms = {}
    for a, x in left.items():
        for b, y in right.items():
            result = add(result, {times(a, b): x * y}, 1)
    return result


def times(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, Fraction(0)) + power
    return frozenset((atom, power) for atom, power in powers.items() if power)
