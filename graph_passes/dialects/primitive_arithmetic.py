"""Batch norms in arithmetic, as written by people, and by exporters without an op for them.

A value that depends on X is read as a polynomial in X, per-channel vectors and powers of sums. So one form covers every
order of operands, all brackets, and every way to write a root. Such a value is a batch norm if it is

    X * r * scale - mean * r * scale + B      with r = (var + epsilon) ^ -1/2

where mean and var are either those of X over all axes but one, or do not depend on X (running statistics). They may be
computed from another arrangement of X's elements: X may be the NHWC transpose of the NCHW result of a convolution. They
may be computed in one step or in several (means of means), and as sums divided by a count; the variance as
mean((X - mean)^2) or as mean(X^2) - mean^2. Reductions over other axes (layer, instance and group norm) give no such
vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import (
    ChannelVector,
    Entangled,
    ForwardSite,
    InferenceSite,
    LeftAlone,
    Site,
    label,
)
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.core.values.moves import MOVES, arrangements
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes
from onnx_cbp.graph_passes.dialects._interior import read_behind, unused_without
from onnx_cbp.graph_passes.dialects._polynomials import (
    BINARY,
    HALF,
    MOST_NODES,
    ONE,
    REDUCTIONS,
    Atom,
    Monomial,
    NotPolynomialError,
    Reader,
    SumOf,
    Terms,
    add,
    times,
)
from onnx_cbp.graph_passes.dialects.made_statistics import is_of_a_part

_BROADCASTS_SINCE = 7
_MOMENTUM = 0.9  # ONNX's default: arithmetic has none
_ROOTS = ("Sqrt", "Pow")
#: Every batch norm in arithmetic has one of these, and so have statistics that a graph computes for an op in inference
#: form.
MAKES_STATISTICS = frozenset((*_ROOTS, *REDUCTIONS))


@dataclass(frozen=True)
class _Match:
    """The batch norm that an expression is."""

    X: ir.Value
    axis: int
    epsilon: float
    scale: ir.Value | None
    B: ir.Value | None
    mean: ir.Value | None
    var: ir.Value | None
    reader: Reader
    between: tuple[ir.Value, ...]


def recognise(node: ir.Node, opset: int, types: Types, samples: SampleAxes) -> Site | None:
    """The batch norm whose result the last node of an expression makes; None if it is none."""
    if opset < _BROADCASTS_SINCE or not _may_be_last(node):
        return None
    match = _match(node, types)
    if match is None or match.axis >= len(types.shape(match.X) or ()):  # where the graph declares fewer axes
        return None
    if _widens(match, types) or _goes_on(node, match, types) or _holds_another(node, match, types):
        return None
    if match.mean is None and is_of_a_part(match.X, match.axis, types, samples):
        return None
    return _site(node, match, types)


def _may_be_last(node: ir.Node) -> bool:
    """Whether a root is among the ancestors of the node; needs no shapes, which are slow to infer."""
    if node.domain != "" or node.op_type not in BINARY or isinstance(node.graph, ir.Function):
        return False
    seen: set[ir.Node] = set()
    waiting = [node]
    while waiting and len(seen) < MOST_NODES:
        current = waiting.pop()
        if current in seen or current.domain != "" or current.graph is not node.graph:
            continue
        seen.add(current)
        if current.op_type in _ROOTS:
            return True
        if current.op_type in (*BINARY, *MOVES, "Neg", "Reciprocal"):
            producers = [None if value is None else value.producer() for value in current.inputs]
            waiting += [producer for producer in producers if producer is not None]
    return False


def _match(node: ir.Node, types: Types) -> _Match | None:
    """The batch norm that ends in a node, with the nearest X that makes it one."""
    between: list[ir.Value] = []
    for X in _behind(node, types):
        for root in arrangements(X, types):
            try:
                return _batch_norm(Reader(X, node, types, root), node, tuple(between))
            except NotPolynomialError:
                continue
        between.append(X)
    return None


def _widens(match: _Match, types: Types) -> bool:
    """Whether vectors with several elements turn the one channel of X into several: no batch norm does this."""
    shape = types.shape(match.X)
    assert shape is not None
    return shape[match.axis] == 1 and any(isinstance(size, int) and size > 1 for size in _vector_sizes(match, types))


def _behind(node: ir.Node, types: Types) -> Iterator[ir.Value]:
    """The values of full size from which a value is computed with per-channel vectors only, the nearest first."""
    current: ir.Node | None = node
    for _ in range(MOST_NODES):
        if current is None or current.domain != "" or current.op_type not in (*BINARY, "Neg", "Identity"):
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


def _batch_norm(reader: Reader, node: ir.Node, between: tuple[ir.Value, ...]) -> _Match:
    """Read the result of a node as a batch norm.

    Raises:
        NotPolynomialError: it is none.
    """
    whole, X = reader.read(node.outputs[0]), reader.read(reader.X)
    slopes = [monomial for monomial in whole.terms if (reader.root, Fraction(1)) in monomial]
    if len(slopes) != 1 or whole.terms[slopes[0]] != 1 or X.terms != {reader.data: 1.0}:
        raise NotPolynomialError
    channel = whole.channel
    if whole.dims is None or whole.dims != X.dims or channel is None or (channel,) not in whole.dims:
        raise NotPolynomialError
    axis = whole.dims.index((channel,))
    slope = slopes[0] - reader.data
    base, scale = _root_and_scale(slope)
    epsilon = base.pop(ONE, 0.0)
    trains = base == reader.batch_variance(channel)
    mean, var = (reader.mean(channel), None) if trains else _running(whole.terms, slope, base)
    rest = add(add(whole.terms, {slopes[0]: 1.0}, -1), {times(slope, frozenset({(mean, Fraction(1))})): -1.0}, -1)
    B = _vector(rest) if rest else None
    # Axis 0 is that of the batch: statistics of each sample belong to a layer norm.
    if epsilon < 0 or axis == 0:
        raise NotPolynomialError
    if not trains and _reaches((mean, var), reader.X):
        raise NotPolynomialError
    running = (None, None) if trains else (mean, var)
    values = [value if isinstance(value, ir.Value) else None for value in running]
    return _Match(reader.X, axis, epsilon, scale, B, values[0], values[1], reader, between)


def _root_and_scale(slope: Monomial) -> tuple[Terms, ir.Value | None]:
    """The argument of the root, and the vector that multiplies it."""
    roots = [atom for atom, power in slope if power == -HALF]
    others = [atom for atom, power in slope if power == 1]
    if len(roots) != 1 or len(others) > 1 or len(roots) + len(others) != len(slope):
        raise NotPolynomialError
    scale = others[0] if others else None
    if scale is not None and not isinstance(scale, ir.Value):
        raise NotPolynomialError
    root = roots[0]
    if isinstance(root, SumOf):
        return dict(root.terms), scale
    return {frozenset({(root, Fraction(1))}): 1.0}, scale


def _running(whole: Terms, slope: Monomial, base: Terms) -> tuple[ir.Value, ir.Value]:
    """The mean and variance of a batch norm with running statistics."""
    var = _vector(base)
    for monomial, coefficient in whole.items():
        if coefficient == -1 and slope <= monomial:
            return _vector({monomial - slope: 1.0}), var
    raise NotPolynomialError


def _vector(terms: Terms) -> ir.Value:
    """The only vector in these terms."""
    if len(terms) == 1:
        ((monomial, coefficient),) = terms.items()
        if coefficient == 1 and len(monomial) == 1:
            ((atom, power),) = monomial
            if power == 1 and isinstance(atom, ir.Value):
                return atom
    raise NotPolynomialError


def _reaches(values: tuple[Atom | None, ...], X: ir.Value) -> bool:
    """Whether statistics depend on X or on ancestors of X: then they are not running statistics."""
    sources = set(_sources((X,)))
    return any(source in sources for source in _sources(values))


def _sources(values: tuple[Atom | None, ...]) -> Iterator[ir.Value]:
    """The values, and their ancestors, without constants."""
    for value in made_of(*(value for value in values if isinstance(value, ir.Value))):
        producer = value.producer()
        if not value.is_initializer() and (producer is None or producer.inputs):
            yield value


def _goes_on(node: ir.Node, match: _Match, types: Types) -> bool:
    """Whether the only reader of a batch norm still belongs to it, as its scale or its B."""
    Y = node.outputs[0]
    readers = {use.node for use in Y.uses()}
    if len(readers) != 1 or Y.is_graph_output():
        return False
    (reader,) = readers
    if reader.graph is not node.graph or reader.domain != "" or reader.op_type not in BINARY:
        return False
    longer = _match(reader, types)
    return longer is not None and longer.X is match.X


def _holds_another(node: ir.Node, match: _Match, types: Types) -> bool:
    """Whether something else reads a batch norm on the way from X: then this only follows it."""
    inside = {node, *match.reader.interior(*_given(node))}
    for value in match.between:
        producer = value.producer()
        read_elsewhere = value.is_graph_output() or any(use.node not in inside for use in value.uses())
        if read_elsewhere and producer is not None and _may_be_last(producer) and _match(producer, types) is not None:
            return True
    return False


def _site(node: ir.Node, match: _Match, types: Types) -> Site:
    kind = "running" if match.mean is not None else "batch"
    form = f"arithmetic ({kind} statistics)"
    interior = tuple(match.reader.interior(*_given(node)))
    shared = _read_elsewhere(node, match, interior, types)
    if shared is not None:
        value, reader = shared
        return Entangled(
            node,
            form,
            f"'{value.name}' inside it is also read by {reader}, so it would be calculated twice: as one op, with a "
            "gradient of its own, it has to stand in the model that the training graph is made of",
            trains=match.mean is None,
        )
    epsilon = _fed_epsilon(match, types)
    if epsilon is not None:
        return LeftAlone(
            node, form, f"its epsilon '{epsilon.name}' is no constant: make it an initializer that is no input"
        )
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
    # The variance first: its ancestors read the mean, before the node.
    saved_var = read_behind(node, match.reader.variances, unused_without(node, interior, None))
    saved_mean = read_behind(node, match.reader.means, unused_without(node, interior, saved_var))
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


def _fed_epsilon(match: _Match, types: Types) -> ir.Value | None:
    """An unknown number that is added to a running variance; None if there is none."""
    node = None if match.var is None else match.var.producer()
    if node is None or (node.domain, node.op_type) != ("", "Add"):
        return None
    shapes = [(value, types.shape(value)) for value in node.inputs if value is not None]
    return next((v for v, shape in shapes if shape is not None and all(size == 1 for size in shape)), None)


def _read_elsewhere(
    node: ir.Node, match: _Match, interior: tuple[ir.Node, ...], types: Types
) -> tuple[ir.Value, str] | None:
    """A value of full size that something outside an expression also reads, as the gradient of arithmetic does."""
    inside = {node, *interior}
    for value in (value for each in interior for value in each.outputs if not _is_narrow(value, types)):
        if match.reader.is_data(value):
            continue  # in another arrangement
        reader = next((use.node for use in value.uses() if use.node not in inside), None)
        if reader is not None or value.is_graph_output():
            return value, "the caller" if reader is None else f"node '{label(reader)}'"
    return None


def _given(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _axis(match: _Match, types: Types) -> int:
    shape = types.shape(match.X)
    assert shape is not None
    return -1 if match.axis == len(shape) - 1 and match.axis != 1 else match.axis


def _channels(match: _Match, types: Types) -> int | None:
    """The number of channels, from any value that tells it."""
    shape = types.shape(match.X)
    assert shape is not None
    sizes = [shape[match.axis], *_vector_sizes(match, types)]
    return next((int(size) for size in sizes if isinstance(size, int)), None)


def _vector_sizes(match: _Match, types: Types) -> list[int | str | None]:
    """What the vectors tell about the number of channels."""
    vectors = [types.shape(value) or () for value in (match.scale, match.B, match.mean, match.var) if value is not None]
    return [size for vector in vectors for size in vector if size != 1]


def _as_channels(value: ir.Value, types: Types) -> ir.Value:
    shape = types.shape(value)
    return value if shape is not None and len(shape) == 1 else ChannelVector.of(value, types.of(value), shape)
