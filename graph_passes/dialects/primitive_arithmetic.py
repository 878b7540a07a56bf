"""Batch norms spelled in arithmetic, as exporters without an op for them, and people, write them.

A value behind X is read as a polynomial in X, per-channel vectors and powers of sums, so that one form stands for every
order of operands, every way to bracket them and every way to write a root. Such a value is a batch norm if it is

    X * r * scale - mean * r * scale + B      with r = (var + epsilon) ^ -1/2

where mean and var are those of X over all axes but one (var as mean((X - mean)^2) or mean(X^2) - mean^2), or do not
depend on X: running statistics. Reductions over other axes (layer, instance and group norm) do not give such vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.sites import ChannelVector, ForwardSite, InferenceSite, LeftAlone, Site
from onnx_cbp.graph_passes.types import Types

_BROADCASTS_SINCE = 7
_MOMENTUM = 0.9  # ONNX's default: arithmetic has none
_BINARY = ("Add", "Sub", "Mul", "Div")
_MOVES = ("Identity", "Reshape", "Unsqueeze", "Squeeze")
_ROOTS = ("Sqrt", "Pow")
_MOST_NODES = 64  # between X and the result; far more than any spelling has
_MOST_TERMS = 12

# Equal atoms are equal values: a value by identity, ("mean", terms) and ("sum", terms) by what they are made of.
_Atom = ir.Value | tuple[str, frozenset[tuple["_Monomial", float]]]
_Monomial = frozenset[tuple[_Atom, Fraction]]
_Terms = dict[_Monomial, float]

_ONE: _Monomial = frozenset()
_HALF = Fraction(1, 2)


class _NoneError(Exception):
    """An expression that is not of the kind."""


@dataclass(frozen=True)
class _Polynomial:
    """What a value is.

    Attributes:
        terms: coefficients by monomial.
        position: the axis of its channels counted from the last one, as broadcasting does; None for a number, and for
            what has X in it alone.
        full: whether X is in it; otherwise it is a vector or a number.
    """

    terms: _Terms
    position: int | None = None
    full: bool = False


@dataclass(frozen=True)
class _Match:
    """A batch norm that an expression is."""

    X: ir.Value
    axis: int
    epsilon: float
    scale: ir.Value | None
    B: ir.Value | None
    mean: ir.Value | None
    var: ir.Value | None
    reader: _Reader
    between: tuple[ir.Value, ...]


def recognise(node: ir.Node, opset: int, types: Types) -> Site | None:
    """The batch norm whose result the last node of an expression makes; None if it is none."""
    if opset < _BROADCASTS_SINCE or not _may_be_last(node):
        return None
    match = _match(node, types)
    if match is None or _goes_on(node, match, types) or _holds_another(node, match, types):
        return None
    return _site(node, match, types)


def _may_be_last(node: ir.Node) -> bool:
    """Whether a root is among what the node is made of; asks for no shapes, which are slow to infer."""
    if node.domain != "" or node.op_type not in _BINARY or isinstance(node.graph, ir.Function):
        return False
    seen: set[ir.Node] = set()
    waiting = [node]
    while waiting and len(seen) < _MOST_NODES:
        current = waiting.pop()
        if current in seen or current.domain != "" or current.graph is not node.graph:
            continue
        seen.add(current)
        if current.op_type in _ROOTS:
            return True
        if current.op_type in (*_BINARY, *_MOVES, "Neg", "Reciprocal"):
            producers = [None if value is None else value.producer() for value in current.inputs]
            waiting += [producer for producer in producers if producer is not None]
    return False


def _match(node: ir.Node, types: Types) -> _Match | None:
    """The batch norm that ends in a node, of the nearest X that makes it one."""
    between: list[ir.Value] = []
    for X in _behind(node, types):
        reader = _Reader(X, node, types)
        try:
            return _batch_norm(reader, node, tuple(between))
        except _NoneError:
            between.append(X)
    return None


def _behind(node: ir.Node, types: Types) -> Iterator[ir.Value]:
    """The values of full size that a value is made of with per-channel vectors only, the nearest first."""
    current: ir.Node | None = node
    for _ in range(_MOST_NODES):
        if current is None or current.domain != "" or current.op_type not in (*_BINARY, "Neg", "Identity"):
            return
        full = [value for value in current.inputs if value is not None and not _is_narrow(value, types)]
        if len(full) != 1 or full[0].producer() is node:
            return
        yield full[0]
        current = full[0].producer()
        if current is not None and current.graph is not node.graph:
            return


def _is_narrow(value: ir.Value, types: Types) -> bool:
    """Whether a value is a number or a vector along one axis."""
    shape = types.shape(value)
    return shape is not None and sum(size != 1 for size in shape) <= 1


class _Reader:
    """Reads values as polynomials in X and vectors.

    Attributes:
        X: the data.
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
        self._known: dict[ir.Value, _Polynomial | None] = {}
        X_term: _Monomial = frozenset({(X, Fraction(1))})
        self.mean: _Atom = ("mean", frozenset({(X_term, 1.0)}))
        self.batch_mean: _Terms = {frozenset({(self.mean, Fraction(1))}): 1.0}
        centred = _sum({X_term: 1.0}, self.batch_mean, -1)
        squares: _Atom = ("mean", frozenset(_product({X_term: 1.0}, {X_term: 1.0}).items()))
        spread: _Atom = ("mean", frozenset(_product(centred, centred).items()))
        self.batch_variance: tuple[_Terms, ...] = (
            {frozenset({(spread, Fraction(1))}): 1.0},
            _sum({frozenset({(squares, Fraction(1))}): 1.0}, _product(self.batch_mean, self.batch_mean), -1),
        )

    def read(self, value: ir.Value | None) -> _Polynomial:
        """What a value is.

        Raises:
            _NoneError: nothing of the kind.
        """
        if value is None:
            raise _NoneError
        if value not in self._known:
            self._known[value] = None  # a loop is none
            self._known[value] = self._read(value)
        known = self._known[value]
        if known is None:
            raise _NoneError
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

    def _read(self, value: ir.Value) -> _Polynomial | None:
        if value is self.X:
            return _Polynomial({frozenset({(value, Fraction(1))}): 1.0}, None, True)
        number = _number(value)
        if number is not None:
            return _Polynomial({_ONE: number} if number else {})
        node = value.producer()
        if node is not None and node.domain == "" and node.graph is self._graph and len(self._understood) < _MOST_NODES:
            try:
                result = self._of_node(node)
                if len(result.terms) > _MOST_TERMS:
                    raise _NoneError
                self._understood[node] = None
                if result.terms == self.batch_mean:
                    self.means.append(value)
                if result.terms in self.batch_variance:
                    self.variances.append(value)
                return result
            except _NoneError:
                pass  # it may yet be a vector of whatever origin
        position = self._position(value)
        return None if position is None else _Polynomial({frozenset({(value, Fraction(1))}): 1.0}, position)

    def _position(self, value: ir.Value) -> int | None:
        """The axis of a vector's channels, counted from the last; None where it is no vector."""
        shape = self._types.shape(value)
        wide = [index for index, size in enumerate(shape or ()) if size != 1]
        return len(shape) - 1 - wide[0] if shape is not None and len(wide) == 1 else None

    def _of_node(self, node: ir.Node) -> _Polynomial:
        inputs = [self.read(value) for value in node.inputs[: 2 if node.op_type in (*_BINARY, "Pow", "Max") else 1]]
        if not inputs or (len(inputs) == 1 and node.op_type in (*_BINARY, "Pow")):  # a constant; what is not valid
            raise _NoneError
        first = inputs[0]
        if node.op_type in _BINARY:
            return self._binary(node.op_type, first, inputs[1])
        if node.op_type in _MOVES:
            return first if node.op_type == "Identity" else self._moved(first, node.outputs[0])
        if node.op_type == "ReduceMean":
            return self._reduced(node, first)
        if node.op_type == "Neg":
            return _Polynomial(_sum({}, first.terms, -1), first.position, first.full)
        if node.op_type == "Reciprocal":
            return self._power(first, Fraction(-1))
        if node.op_type == "Sqrt":
            return self._power(first, _HALF)
        if node.op_type == "Pow" and set(inputs[1].terms) <= {_ONE}:
            return self._power(first, Fraction(inputs[1].terms.get(_ONE, 0.0)))
        clipped = node.op_type == "Relu" or (node.op_type == "Max" and len(node.inputs) == 2 and not inputs[1].terms)
        if clipped and first.terms in self.batch_variance:  # no variance is below zero but by rounding
            return first
        raise _NoneError

    def _binary(self, op_type: str, left: _Polynomial, right: _Polynomial) -> _Polynomial:
        positions = {p for p in (left.position, right.position) if p is not None}
        if len(positions) > 1:  # an outer product
            raise _NoneError
        position, full = next(iter(positions), None), left.full or right.full
        if op_type in ("Add", "Sub"):
            return _Polynomial(_sum(left.terms, right.terms, 1 if op_type == "Add" else -1), position, full)
        if op_type == "Div":
            right = self._power(right, Fraction(-1))
        return _Polynomial(_product(left.terms, right.terms), position, full)

    def _power(self, base: _Polynomial, exponent: Fraction) -> _Polynomial:
        if exponent == 2:
            return _Polynomial(_product(base.terms, base.terms), base.position, base.full)
        if base.full or not base.terms or exponent not in (-1, _HALF, -_HALF):
            raise _NoneError
        if len(base.terms) == 1:
            ((monomial, coefficient),) = base.terms.items()
            if exponent == -1 or coefficient == 1:
                raised = frozenset((atom, power * exponent) for atom, power in monomial)
                return _Polynomial({raised: coefficient ** float(exponent)}, base.position)
        atom: _Atom = ("sum", frozenset(base.terms.items()))
        return _Polynomial({frozenset({(atom, exponent)}): 1.0}, base.position)

    def _moved(self, moved: _Polynomial, result: ir.Value) -> _Polynomial:
        if moved.position is None:
            if moved.full:
                raise _NoneError
            return moved
        position = self._position(result)
        if position is None:
            raise _NoneError
        return _Polynomial(moved.terms, position)

    def _reduced(self, node: ir.Node, reduced: _Polynomial) -> _Polynomial:
        shape, axes = self._types.shape(self.X), _axes(node)
        if not reduced.full or shape is None or not axes:
            raise _NoneError
        rank = len(shape)
        left = set(range(rank)) - {axis % rank for axis in axes}
        if len(left) != 1 or rank < 2:
            raise _NoneError
        channels = rank - 1 - left.pop()
        if reduced.position not in (None, channels):
            raise _NoneError
        self.channels.add(channels)
        atom: _Atom = ("mean", frozenset(reduced.terms.items()))
        position = channels if attribute(node, "keepdims", 1) else 0
        return _Polynomial({frozenset({(atom, Fraction(1))}): 1.0}, position)


def _sum(left: _Terms, right: _Terms, sign: int) -> _Terms:
    result = dict(left)
    for monomial, coefficient in right.items():
        result[monomial] = result.get(monomial, 0.0) + sign * coefficient
    return {monomial: coefficient for monomial, coefficient in result.items() if coefficient}


def _product(left: _Terms, right: _Terms) -> _Terms:
    if len(left) * len(right) > _MOST_TERMS**2:
        raise _NoneError
    result: _Terms = {}
    for a, x in left.items():
        for b, y in right.items():
            result = _sum(result, {_times(a, b): x * y}, 1)
    return result


def _times(left: _Monomial, right: _Monomial) -> _Monomial:
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, Fraction(0)) + power
    return frozenset((atom, power) for atom, power in powers.items() if power)


def _number(value: ir.Value) -> float | None:
    """The number that a constant of one element is; None where it is something else, or may be fed."""
    if value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or math.prod(tensor.shape.numpy()) != 1:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    given = node.attributes.get("axes")
    if given is not None:
        return tuple(given.as_ints())
    axes = optional_input(node, 1)
    tensor = None if axes is None or axes.is_graph_input() else ir.convenience.get_const_tensor(axes)
    return None if tensor is None else tuple(int(axis) for axis in tensor.numpy().reshape(-1))


def _batch_norm(reader: _Reader, node: ir.Node, between: tuple[ir.Value, ...]) -> _Match:
    """The batch norm that the result of a node is.

    Raises:
        _NoneError: it is none.
    """
    whole = reader.read(node.outputs[0])
    data: _Monomial = frozenset({(reader.X, Fraction(1))})
    slopes = [monomial for monomial in whole.terms if (reader.X, Fraction(1)) in monomial]
    if len(slopes) != 1 or whole.terms[slopes[0]] != 1 or not whole.full:
        raise _NoneError
    slope = slopes[0] - data
    base, scale = _root_and_scale(slope)
    epsilon = base.pop(_ONE, 0.0)
    trains = base in reader.batch_variance
    mean, var = (reader.mean, None) if trains else _running(whole.terms, slope, base)
    rest = _sum(_sum(whole.terms, {slopes[0]: 1.0}, -1), {_times(slope, frozenset({(mean, Fraction(1))})): -1.0}, -1)
    B = _vector(rest) if rest else None
    shape = reader._types.shape(reader.X)
    # Axis 0 is that of the batch: statistics of each sample are a layer norm's.
    if epsilon < 0 or shape is None or whole.position is None or whole.position >= len(shape) - 1:
        raise _NoneError
    if reader.channels and (trains is False or reader.channels != {whole.position}):
        raise _NoneError
    rank = len(shape)
    axis = rank - 1 - whole.position
    if not trains and _reaches((mean, var), reader.X):
        raise _NoneError
    running = (None, None) if trains else (mean, var)
    values = [value if isinstance(value, ir.Value) else None for value in running]
    return _Match(reader.X, axis, epsilon, scale, B, values[0], values[1], reader, between)


def _root_and_scale(slope: _Monomial) -> tuple[_Terms, ir.Value | None]:
    """What the root is taken of, and the vector beside it."""
    roots = [atom for atom, power in slope if power == -_HALF]
    others = [atom for atom, power in slope if power == 1]
    if len(roots) != 1 or len(others) > 1 or len(roots) + len(others) != len(slope):
        raise _NoneError
    scale = others[0] if others else None
    if isinstance(scale, tuple):
        raise _NoneError
    root = roots[0]
    if isinstance(root, tuple) and root[0] == "sum":
        return dict(root[1]), scale
    return {frozenset({(root, Fraction(1))}): 1.0}, scale


def _running(whole: _Terms, slope: _Monomial, base: _Terms) -> tuple[ir.Value, ir.Value]:
    """The mean and variance of a batch norm with running statistics."""
    var = _vector(base)
    for monomial, coefficient in whole.items():
        if coefficient == -1 and slope <= monomial:
            return _vector({monomial - slope: 1.0}), var
    raise _NoneError


def _vector(terms: _Terms) -> ir.Value:
    """The one vector that terms are."""
    if len(terms) == 1:
        ((monomial, coefficient),) = terms.items()
        if coefficient == 1 and len(monomial) == 1:
            ((atom, power),) = monomial
            if power == 1 and isinstance(atom, ir.Value):
                return atom
    raise _NoneError


def _reaches(values: tuple[_Atom | None, ...], X: ir.Value) -> bool:
    """Whether statistics are made of X, or of what X is made of: then they are none that run."""
    sources = set(_sources((X,)))
    return any(source in sources for source in _sources(values))


def _sources(values: tuple[_Atom | None, ...]) -> Iterator[ir.Value]:
    """The values that are no constants and that others are made of, and themselves."""
    seen: set[ir.Value] = set()
    waiting = [value for value in values if isinstance(value, ir.Value)]
    while waiting:
        value = waiting.pop()
        if value in seen or value.is_initializer():
            continue
        seen.add(value)
        producer = value.producer()
        if producer is None:
            yield value
            continue
        if producer.inputs:
            yield value
        waiting += [each for each in producer.inputs if each is not None]


def _goes_on(node: ir.Node, match: _Match, types: Types) -> bool:
    """Whether the one reader of a batch norm is still a part of it: its scale or its B."""
    Y = node.outputs[0]
    readers = {use.node for use in Y.uses()}
    if len(readers) != 1 or Y.is_graph_output():
        return False
    (reader,) = readers
    if reader.graph is not node.graph or reader.domain != "" or reader.op_type not in _BINARY:
        return False
    longer = _match(reader, types)
    return longer is not None and longer.X is match.X


def _holds_another(node: ir.Node, match: _Match, types: Types) -> bool:
    """Whether a batch norm on the way from X is read elsewhere too: it is one, and this what follows."""
    inside = {node, *match.reader.interior(node)}
    for value in match.between:
        producer = value.producer()
        read_elsewhere = value.is_graph_output() or any(use.node not in inside for use in value.uses())
        if read_elsewhere and producer is not None and _may_be_last(producer) and _match(producer, types) is not None:
            return True
    return False


def _site(node: ir.Node, match: _Match, types: Types) -> Site:
    kind = "running" if match.mean is not None else "batch"
    form = f"arithmetic ({kind} statistics)"
    interior = tuple(match.reader.interior(node))
    channels = _channels(match, types)
    if channels is None and (match.scale is None or match.B is None):
        missing = "scale" if match.scale is None else "B"
        return LeftAlone(
            node,
            form,
            f"it has no {missing}, and the number of channels of '{match.X.name}' is not known: give its shape",
        )
    dtype = types.of(match.X)
    scale = _as_channels(match.scale, types) if match.scale is not None else ChannelVector.filled(1.0, channels, dtype)
    B = _as_channels(match.B, types) if match.B is not None else ChannelVector.filled(0.0, channels, dtype)
    if match.mean is not None and match.var is not None:
        return InferenceSite(
            node=node,
            form=form,
            axis=_axis(match, types),
            epsilon=match.epsilon,
            momentum=_MOMENTUM,
            X=match.X,
            scale=scale,
            B=B,
            mean=_as_channels(match.mean, types),
            var=_as_channels(match.var, types),
            Y=node.outputs[0],
            interior=interior,
        )
    # The variance first: what it is made of reads the mean, in front of the node.
    saved_var = _read_behind(node, match.reader.variances, _unused_without(node, interior, None))
    saved_mean = _read_behind(node, match.reader.means, _unused_without(node, interior, saved_var))
    return ForwardSite(
        node=node,
        form=form,
        axis=_axis(match, types),
        epsilon=match.epsilon,
        momentum=_MOMENTUM,
        X=match.X,
        scale=scale,
        B=B,
        running_mean=None,
        running_var=None,
        Y=node.outputs[0],
        updated_mean=None,
        updated_var=None,
        saved_mean=saved_mean,
        saved_var=saved_var,
        saved_inv_std=None,
        updates_in_place=False,
        interior=interior,
    )


def _axis(match: _Match, types: Types) -> int:
    shape = types.shape(match.X)
    assert shape is not None
    return -1 if match.axis == len(shape) - 1 and match.axis != 1 else match.axis


def _channels(match: _Match, types: Types) -> int | None:
    """The number of channels, from whichever value says it."""
    shape = types.shape(match.X)
    assert shape is not None
    sizes = [shape[match.axis]]
    for value in (match.scale, match.B, match.mean, match.var):
        vector = None if value is None else types.shape(value)
        sizes += [size for size in vector or () if size != 1]
    return next((int(size) for size in sizes if isinstance(size, int)), None)


def _as_channels(value: ir.Value, types: Types) -> ir.Value:
    shape = types.shape(value)
    return value if shape is not None and len(shape) == 1 else ChannelVector.of(value, types.of(value), shape)


def _unused_without(node: ir.Node, interior: tuple[ir.Node, ...], served: ir.Value | None) -> set[ir.Node]:
    """The node, and those of its expression that only it needs where another node makes the value `served`."""
    gone, before = {node}, 0
    while len(gone) != before:
        before = len(gone)
        for each in interior:
            outputs = [value for value in each.outputs if value is not served]
            if all(not v.is_graph_output() and all(use.node in gone for use in v.uses()) for v in outputs):
                gone.add(each)
    return gone


def _read_behind(node: ir.Node, values: list[ir.Value], gone: set[ir.Node]) -> ir.Value | None:
    """The first of equal values that something else reads, and only behind the node; others go on being calculated."""
    wanted = [v for v in values if v.is_graph_output() or any(use.node not in gone for use in v.uses())]
    if not wanted or node.graph is None:
        return None
    position = {each: index for index, each in enumerate(node.graph)}
    for value in wanted:
        readers = [use.node for use in value.uses() if use.node not in gone]
        if all(position.get(reader, -1) > position[node] for reader in readers):
            return value
    return None
