"""Reads arithmetic as polynomials in X, per-channel vectors and powers of sums, however it is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.types import NO_NUMBERS, Types
from onnx_cbp.graph_passes.core.values.constants import whole_numbers
from onnx_cbp.graph_passes.core.values.moves import MOVES, moved_axes
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input, reduced_axes

BINARY = ("Add", "Sub", "Mul", "Div")
_CASTS = ("Cast", "CastLike")
_TO_NUMBERS = ("Identity", "Reshape", "Unsqueeze", "Squeeze", *_CASTS)
_MOST_COPIES = 8  # of a number
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "GlobalAveragePool")
MOST_NODES = 64  # of one expression; far more than any way of writing has
_MOST_VISITED = 4 * MOST_NODES  # including values that turn out not to belong to it
_MOST_TERMS = 12
_MOST_NESTED = 4  # of shapes that are computed from shapes
_EXACT = 1e-6  # a number this near to an integer counts as it: 1 / count, rounded, times count

_UNARY = ("Neg", "Reciprocal", "Sqrt", "Relu")
_READ = frozenset((*BINARY, *REDUCTIONS, *MOVES, *_UNARY, "Pow", "Max", "Clip"))
_TWO = (*BINARY, "Pow", "Max", "Clip")


@dataclass(frozen=True)
class MeanOver:
    """The mean of a product over axes of the root."""

    axes: frozenset[int]
    of: Monomial


@dataclass(frozen=True)
class SizeOf:
    """The size of an axis of the root."""

    axis: int


@dataclass(frozen=True)
class SumOf:
    """A sum that is raised to a power."""

    terms: frozenset[tuple[Monomial, float]]


# Equal atoms are equal values.
Atom = ir.Value | MeanOver | SizeOf | SumOf
Monomial = frozenset[tuple[Atom, Fraction]]
Terms = dict[Monomial, float]

ONE: Monomial = frozenset()
HALF = Fraction(1, 2)


class NotPolynomialError(Exception):
    """The expression is not such a polynomial."""


@dataclass(frozen=True)
class Polynomial:
    """The polynomial that a value is.

    Attributes:
        terms: coefficients by monomial.
        dims: the axes of the root along each axis of the value, if more than one is left in it; None for a vector along
            one axis, and for a number.
        position: the axis of a vector, counted from the last one, as in broadcasting; None for a number.
        channel: the axis of the root along which its vectors lie; None if there are none, or if it is not known yet.
    """

    terms: Terms
    dims: tuple[tuple[int, ...], ...] | None = None
    position: int | None = None
    channel: int | None = None


class Reader:
    """Reads values as polynomials in X and vectors.

    Args:
        X: the data that is normalised.
        last: the node whose result is read; only nodes of its graph are read.
        types: shapes and types.
        root: a value with the same elements as X, in any order of axes; X by default.

    Attributes:
        X, root: the data.
        means, variances: the values that are means and variances of the data over all axes but one.
    """

    def __init__(self, X: ir.Value, last: ir.Node, types: Types, root: ir.Value | None = None) -> None:
        self.X = X
        self.root = X if root is None else root
        self.means: list[ir.Value] = []
        self.variances: list[ir.Value] = []
        self._understood: dict[ir.Node, None] = {}
        self._visited: set[ir.Value] = set()
        self._nested = 0
        self._counted: dict[ir.Node, list[Terms] | None] = {}
        self._graph = last.graph
        self._types = types
        self._sizes = types.shape(self.root)
        self._known: dict[ir.Value, Polynomial | None] = {}
        self.data: Monomial = frozenset({(self.root, Fraction(1))})

    def mean(self, channel: int) -> Atom:
        """The mean of the data over all axes but one."""
        return self._mean(channel, self.data)

    def batch_mean(self, channel: int) -> Terms:
        return {frozenset({(self.mean(channel), Fraction(1))}): 1.0}

    def batch_variance(self, channel: int) -> Terms:
        """The mean of the squares minus the square of the mean."""
        mean = self.batch_mean(channel)
        squares = self._mean(channel, times(self.data, self.data))
        return add({frozenset({(squares, Fraction(1))}): 1.0}, multiply(mean, mean), -1)

    def _mean(self, channel: int, monomial: Monomial) -> Atom:
        return MeanOver(frozenset(range(self._rank)) - {channel}, monomial)

    def read(self, value: ir.Value | None) -> Polynomial:
        """The polynomial that a value is.

        Raises:
            NotPolynomialError: it is none.
        """
        if value is None:
            raise NotPolynomialError
        if value not in self._known:
            self._read_all(value)
        return self._get(value)

    def _get(self, value: ir.Value | None) -> Polynomial:
        """The polynomial of a value that was already read."""
        known = None if value is None else self._known.get(value)
        if known is None:
            raise NotPolynomialError
        return known

    def is_data(self, value: ir.Value) -> bool:
        """Whether a value that was read is the data, in any order of axes."""
        known = self._known.get(value)
        return known is not None and known.terms == {self.data: 1.0}

    def interior(self, *values: ir.Value) -> dict[ir.Node, None]:
        """The nodes from which values were read, unordered; without those that make X."""
        found: dict[ir.Node, None] = {}
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            producer = value.producer()
            if value is self.X or value is self.root or producer is None or producer in found:
                continue
            if producer in self._understood:
                found[producer] = None
                waiting += [each for each in producer.inputs if each is not None]
        return found

    def _read_all(self, wanted: ir.Value) -> None:
        """Read a value and its ancestors, one after another, without recursion: graphs are deep."""
        waiting, begun = [wanted], set()
        while waiting:
            value = waiting[-1]
            operands = [] if value in begun else self._operands(value)
            begun.add(value)
            new = [each for each in operands if each not in self._known and each not in begun]
            if new:
                waiting += reversed(new)
                continue
            waiting.pop()
            if value not in self._known:
                self._known[value] = self._read(value)

    def _operands(self, value: ir.Value) -> list[ir.Value]:
        """The values from which a value is read."""
        node = value.producer()
        if value is self.root or not self._is_readable(node) or len(self._visited) >= _MOST_VISITED:
            return []
        self._visited.add(value)
        assert node is not None
        return [each for each in node.inputs[: 2 if node.op_type in _TWO else 1] if each is not None]

    def _is_readable(self, node: ir.Node | None) -> bool:
        return node is not None and node.domain == "" and node.graph is self._graph and node.op_type in _READ

    def _read(self, value: ir.Value) -> Polynomial | None:
        if value is self.root:
            return None if self._sizes is None else Polynomial({self.data: 1.0}, tuple((a,) for a in range(self._rank)))
        number = self._number(value)
        if number is not None:
            return Polynomial({ONE: number} if number else {})
        node = value.producer()
        if node is not None and self._is_readable(node) and len(self._understood) < MOST_NODES:
            try:
                result = self._of_node(node)
                if len(result.terms) > _MOST_TERMS:
                    raise NotPolynomialError
                self._understood[node] = None
                self._note(value, result)
                return result
            except NotPolynomialError:
                pass  # it may still be a vector, whatever made it
        position = self._position(value)
        return None if position is None else Polynomial({frozenset({(value, Fraction(1))}): 1.0}, position=position)

    @property
    def _rank(self) -> int:
        return len(self._sizes or ())

    def _note(self, value: ir.Value, result: Polynomial) -> None:
        if result.dims is None and result.channel is not None:
            if result.terms == self.batch_mean(result.channel):
                self.means.append(value)
            if self._is_variance(result):
                self.variances.append(value)

    def _number(self, value: ir.Value) -> float | None:
        """The number in a constant of one element, in the types to which it is cast; None if it may be fed."""
        types: list[ir.DataType | None] = []
        while (node := value.producer()) is not None and node.domain == "" and node.op_type in _TO_NUMBERS:
            source = node.inputs[0]
            if source is None:
                return None
            if len(types) == _MOST_COPIES:
                return None
            types.append(self._types.of(value) if node.op_type in _CASTS else ir.DataType.DOUBLE)
            value = source
        tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
        if tensor is None or math.prod(tensor.shape.numpy()) != 1 or tensor.dtype in NO_NUMBERS:
            return None
        number = tensor.numpy().reshape(-1)[0]
        for dtype in reversed(types):
            if dtype is None or dtype in NO_NUMBERS:
                return None
            with np.errstate(all="ignore"):
                number = number.astype(dtype.numpy())
        return float(number) if np.isfinite(float(number)) else None

    def _position(self, value: ir.Value) -> int | None:
        """The axis of a vector's channels, counted from the last; None if the value is no vector."""
        shape = self._types.shape(value)
        wide = [index for index, size in enumerate(shape or ()) if size != 1]
        return len(shape) - 1 - wide[0] if shape is not None and len(wide) == 1 else None

    def _of_node(self, node: ir.Node) -> Polynomial:
        if node.op_type == "Cast" and (size := self._size(node.outputs[0])) is not None:
            return Polynomial(size)
        inputs = [self._get(value) for value in node.inputs[: 2 if node.op_type in (*BINARY, "Pow", "Max") else 1]]
        if not inputs or (len(inputs) == 1 and node.op_type in (*BINARY, "Pow")):  # a constant, or an invalid node
            raise NotPolynomialError
        first = inputs[0]
        if node.op_type in BINARY:
            return self._binary(node.op_type, first, inputs[1])
        if node.op_type in MOVES:
            return self._moved(node, first)
        if node.op_type in REDUCTIONS:
            return self._reduced(node, first)
        if node.op_type == "Neg":
            return Polynomial(add({}, first.terms, -1), first.dims, first.position, first.channel)
        if node.op_type == "Reciprocal":
            return self._power(first, Fraction(-1))
        if node.op_type == "Sqrt":
            return self._power(first, HALF)
        if node.op_type == "Pow" and set(inputs[1].terms) <= {ONE}:
            return self._power(first, Fraction(inputs[1].terms.get(ONE, 0.0)))
        clipped = node.op_type == "Relu" or (node.op_type == "Max" and len(node.inputs) == 2 and not inputs[1].terms)
        if (clipped or self._clips_at_zero(node)) and self._is_variance(first):
            return first  # only rounding can make it negative
        raise NotPolynomialError

    def _is_variance(self, read: Polynomial) -> bool:
        if read.channel is None or read.dims is not None:
            return False
        return read.terms == self.batch_variance(read.channel)

    def _clips_at_zero(self, node: ir.Node) -> bool:
        """Whether a node is a Clip from 0 on, without an upper end."""
        if node.op_type != "Clip":
            return False
        if "min" in node.attributes:  # before opset 11
            return attribute(node, "min", 0.0) == 0.0 and "max" not in node.attributes
        lower, upper = optional_input(node, 1), optional_input(node, 2)
        return lower is not None and upper is None and not self._get(lower).terms

    def _binary(self, op_type: str, left: Polynomial, right: Polynomial) -> Polynomial:
        if op_type == "Div":
            right = self._power(right, Fraction(-1))
        place = self._together(left, right)
        if op_type in ("Add", "Sub"):
            return Polynomial(add(left.terms, right.terms, 1 if op_type == "Add" else -1), *place)
        return Polynomial(multiply(left.terms, right.terms), *place)

    def _together(
        self, left: Polynomial, right: Polynomial
    ) -> tuple[tuple[tuple[int, ...], ...] | None, int | None, int | None]:
        """(dims, position, channel) of two values after broadcasting."""
        channels = {c for c in (left.channel, right.channel) if c is not None}
        positions = {p for p in (left.position, right.position) if p is not None}
        if len(positions) > 1:  # an outer product
            raise NotPolynomialError
        position = next(iter(positions), None)
        dims = left.dims if right.dims is None else right.dims if left.dims is None else _aligned(left.dims, right.dims)
        if dims is not None and position is not None:
            axis = len(dims) - 1 - position
            if axis < 0 or len(dims[axis]) != 1:
                raise NotPolynomialError
            channels.add(dims[axis][0])
        if len(channels) > 1:
            raise NotPolynomialError
        return dims, None if dims is not None else position, next(iter(channels), None)

    def _power(self, base: Polynomial, exponent: Fraction) -> Polynomial:
        if exponent == 2:
            return Polynomial(multiply(base.terms, base.terms), base.dims, base.position, base.channel)
        if base.dims is not None or not base.terms or exponent not in (-1, HALF, -HALF):
            raise NotPolynomialError
        if len(base.terms) == 1:
            ((monomial, coefficient),) = base.terms.items()
            if exponent == -1 or coefficient == 1:
                raised = frozenset((atom, power * exponent) for atom, power in monomial)
                return Polynomial({raised: _raised(coefficient, exponent)}, None, base.position, base.channel)
        atom = SumOf(frozenset(base.terms.items()))
        return Polynomial({frozenset({(atom, exponent)}): 1.0}, None, base.position, base.channel)

    def _moved(self, node: ir.Node, moved: Polynomial) -> Polynomial:
        if moved.dims is not None:
            axes = moved_axes(node, self._types)
            if axes is None or any(axis >= len(moved.dims) for group in axes for axis in group):
                raise NotPolynomialError  # the graph declares more axes than there are
            dims = tuple(tuple(each for axis in group for each in moved.dims[axis]) for group in axes)
            return Polynomial(moved.terms, _once(dims), None, moved.channel)
        if node.op_type in ("Cast", "CastLike") and moved_axes(node, self._types) is None:
            raise NotPolynomialError
        if moved.position is None:
            return moved
        position = self._position(node.outputs[0])
        if position is None:
            raise NotPolynomialError
        return Polynomial(moved.terms, None, position, moved.channel)

    def _reduced(self, node: ir.Node, reduced: Polynomial) -> Polynomial:
        dims = reduced.dims
        if not dims:
            raise NotPolynomialError
        rank, keeps = len(dims), True
        if node.op_type == "GlobalAveragePool":
            gone = set(range(2, rank))
        else:
            axes, keeps = reduced_axes(node), bool(attribute(node, "keepdims", 1))
            if axes is None or (not axes and attribute(node, "noop_with_empty_axes", 0)):
                raise NotPolynomialError
            gone = {axis % rank for axis in axes} or set(range(rank))
        over = frozenset(each for axis in gone for each in dims[axis])
        if reduced.channel in over:
            raise NotPolynomialError
        terms = multiply(reduced.terms, reduced.terms) if node.op_type == "ReduceSumSquare" else reduced.terms
        terms = self._mean_of(terms, over)
        if node.op_type in ("ReduceSum", "ReduceSumSquare"):
            for axis in sorted(over):
                terms = multiply(terms, self._size_of_axis(axis))
        left = [() if axis in gone else each for axis, each in enumerate(dims) if keeps or axis not in gone]
        wide = [index for index, each in enumerate(left) if each]
        if not wide:
            return Polynomial(terms)
        if len(wide) == 1 and len(left[wide[0]]) == 1:
            return Polynomial(terms, None, len(left) - 1 - wide[0], left[wide[0]][0])
        return Polynomial(terms, tuple(left), None, reduced.channel)

    def _mean_of(self, terms: Terms, over: frozenset[int]) -> Terms:
        """The mean of a sum over axes, term by term."""
        result: Terms = {}
        for monomial, coefficient in terms.items():
            varying = frozenset((atom, power) for atom, power in monomial if self._varies(atom, over))
            constant = monomial - varying
            if varying:
                (atom, power), *others = varying
                if isinstance(atom, MeanOver):  # a mean of means
                    if others or power != 1 or atom.axes & over:
                        raise NotPolynomialError
                    mean = MeanOver(atom.axes | over, atom.of)
                else:
                    mean = MeanOver(over, varying)
                constant = times(constant, frozenset({(mean, Fraction(1))}))
            result = add(result, {constant: coefficient}, 1)
        return result

    def _varies(self, atom: Atom, over: frozenset[int]) -> bool:
        """Whether an atom varies along axes of the root."""
        return not over <= atom.axes if isinstance(atom, MeanOver) else atom is self.root

    def _size_of_axis(self, axis: int) -> Terms:
        assert self._sizes is not None
        size = self._sizes[axis]
        return {ONE: float(size)} if isinstance(size, int) else {frozenset({(SizeOf(axis), Fraction(1))}): 1.0}

    def _size(self, value: ir.Value) -> Terms | None:
        """If an integer of a graph is the number of elements along axes of the root, that number; otherwise None."""
        sizes = self._sizes_in(value, 0)
        return sizes[0] if sizes is not None and len(sizes) == 1 else None

    def _sizes_in(self, value: ir.Value | None, depth: int) -> list[Terms] | None:
        """The elements of a vector that is computed from a shape."""
        if value is None or depth > MOST_NODES:
            return None
        constant = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
        if constant is not None:
            if constant.dtype in NO_NUMBERS:
                return None
            numbers = constant.numpy().reshape(-1)
            return [{ONE: float(number)} for number in numbers] if len(numbers) <= MOST_NODES else None
        node = value.producer()
        if node is None or node.domain != "" or node.graph is not self._graph:
            return None
        if node.op_type in ("Shape", "Size"):
            return self._shape(node)
        if node.op_type not in _OF_SHAPES:
            return None
        if node not in self._counted:  # a chain of products of a value by itself is read once
            self._counted[node] = self._combined(node, depth)
        return self._counted[node]

    def _combined(self, node: ir.Node, depth: int) -> list[Terms] | None:
        """The elements of a vector that a node makes of others."""
        operands = node.inputs[: 2 if node.op_type in ("Mul", "Gather") else 1]
        lists = [self._sizes_in(each, depth + 1) for each in operands]
        if not lists or any(each is None for each in lists):
            return None
        result = _OF_SHAPES[node.op_type](node, [each for each in lists if each is not None])
        if result is not None:
            self._understood[node] = None
        return result

    def _shape(self, node: ir.Node) -> list[Terms] | None:
        if self._nested >= _MOST_NESTED:
            return None
        self._nested += 1
        try:
            dims = self.read(node.inputs[0]).dims
        except NotPolynomialError:
            return None
        finally:
            self._nested -= 1
        if dims is None:
            return None
        self._understood[node] = None
        sizes = [_product([self._size_of_axis(axis) for axis in each]) for each in dims]
        if node.op_type == "Size":
            return [_product(sizes)]
        first, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        return sizes[first:end]


def _product(sizes: Sequence[Terms]) -> Terms:
    result: Terms = {ONE: 1.0}
    for size in sizes:
        result = multiply(result, size)
    return result


def _same(node: ir.Node, lists: list[list[Terms]]) -> list[Terms]:  # noqa: ARG001 - one signature for all
    return lists[0]


def _gathered(node: ir.Node, lists: list[list[Terms]]) -> list[Terms] | None:
    data, indices = lists
    if attribute(node, "axis", 0) or any(set(index) - {ONE} for index in indices):
        return None
    numbers = [index.get(ONE, 0.0) for index in indices]
    if not all(number.is_integer() for number in numbers):
        return None
    places = [int(number) for number in numbers]
    return [data[place] for place in places] if all(-len(data) <= place < len(data) for place in places) else None


def _sliced(node: ir.Node, lists: list[list[Terms]]) -> list[Terms] | None:
    if "starts" in node.attributes:
        bounds = [list(node.attributes[name].as_ints()) for name in ("starts", "ends")]
    else:
        given = [whole_numbers(value) for value in node.inputs[1:]]
        if any(each is None for each in given) or len(given) not in (2, 3):
            return None
        bounds = [list(each) for each in given[:2] if each is not None]
    return lists[0][bounds[0][0] : bounds[1][0]] if all(len(each) == 1 for each in bounds) else None


def _multiplied(node: ir.Node, lists: list[list[Terms]]) -> list[Terms] | None:
    if node.op_type == "ReduceProd":
        return [_product(lists[0])]
    left, right = lists
    if len(left) != len(right):
        return None
    return [multiply(a, b) for a, b in zip(left, right, strict=True)]


#: With these ops exporters compute a number of elements from a shape.
_OF_SHAPES = {
    "Cast": _same,
    "Identity": _same,
    "Reshape": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Gather": _gathered,
    "Slice": _sliced,
    "ReduceProd": _multiplied,
    "Mul": _multiplied,
}


def _aligned(left: tuple[tuple[int, ...], ...], right: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The axes of the root along each axis of two values after broadcasting."""
    rank = max(len(left), len(right))
    pairs = zip(((),) * (rank - len(left)) + left, ((),) * (rank - len(right)) + right, strict=True)
    dims = []
    for one, other in pairs:
        if one and other and one != other:
            raise NotPolynomialError
        dims.append(one or other)
    return _once(tuple(dims))


def _once(dims: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The same axes, if none is in it twice."""
    found = [axis for each in dims for axis in each]
    if len(found) != len(set(found)):
        raise NotPolynomialError
    return dims


def _raised(coefficient: float, exponent: Fraction) -> float:
    try:
        return coefficient ** float(exponent)
    except OverflowError:  # of a number next to zero
        raise NotPolynomialError from None


def add(left: Terms, right: Terms, sign: int) -> Terms:
    result = dict(left)
    for monomial, coefficient in right.items():
        before, more = result.get(monomial, 0.0), sign * coefficient
        after = before + more
        if monomial:  # a number alone, such as epsilon, stays as it is
            after = 0.0 if abs(after) < _EXACT * max(abs(before), abs(more)) else _rounded(after)
        result[monomial] = after
    return {monomial: coefficient for monomial, coefficient in result.items() if coefficient}


def _rounded(coefficient: float) -> float:
    """A coefficient, as an integer if only rounding makes the difference."""
    nearest = round(coefficient) if abs(coefficient) < 1 / _EXACT else 0
    return float(nearest) if nearest and abs(coefficient - nearest) < _EXACT * abs(nearest) else coefficient


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
