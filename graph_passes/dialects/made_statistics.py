"""Tells where the mean and variance of a batch norm come from: parameters, the batch, a part of it, or something else.

Some batch norms normalise with the statistics of their batch (track_running_stats=False in PyTorch, is_training in
TensorFlow). Exporters write these as an op in inference form whose mean and variance the graph computes from X. Layer
and instance norms and standardised weights look the same, but their statistics are those of each sample, or of none.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import ForwardSite, InferenceSite, LeftAlone, Site
from onnx_cbp.graph_passes.core.splice import is_used
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import read_inside
from onnx_cbp.graph_passes.core.values.moves import arrangements
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes
from onnx_cbp.graph_passes.dialects._interior import read_behind, unused_without
from onnx_cbp.graph_passes.dialects._polynomials import NotPolynomialError, Reader
from onnx_cbp.graph_passes.dialects.channel_inference import running_updates

#: Ops whose result is their first input, if that is a parameter.
_COPIES = ("Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand")
_OF_SHAPES = ("Shape", "Size")


class Origin(enum.Enum):
    """Where statistics come from."""

    PARAMETERS = "parameters"
    BATCH = "the batch"
    PART = "a part of the batch"
    OTHER = "something else"


@dataclass(frozen=True)
class MadeStatistics(LeftAlone):
    """A batch norm in inference form whose statistics are neither parameters nor those of its batch."""


def resolve(site: Site | None, types: Types, samples: SampleAxes) -> Site | None:
    """What a batch norm really is, given the origin of its statistics; None if it turns out to be none."""
    if isinstance(site, ForwardSite):
        return site if site.interior else _without_made_statistics(site, types)
    if not isinstance(site, InferenceSite) or site.interior:
        return site
    origin = origin_of(site, types, samples)
    if origin is Origin.PARAMETERS or any(is_used(value) for value in site.superfluous):
        return site
    if origin is Origin.PART:
        return None
    if origin is Origin.BATCH:
        return _of_batch(site, types)
    made = site.mean if not _is_given(site.mean) else site.var
    return MadeStatistics(
        site.node,
        site.form,
        f"its {'mean' if made is site.mean else 'variance'} '{made.name}' is made in the graph, and is neither a "
        "parameter nor that of its batch: what it computes stays as it is",
    )


def origin_of(site: InferenceSite | ForwardSite, types: Types, samples: SampleAxes) -> Origin:
    """The origin of the mean and variance that an op reads."""
    mean, var = _read(site)
    if mean is None or var is None or (_is_given(mean) and _is_given(var)):
        return Origin.PARAMETERS
    if not _is_of_data(site.X, (mean, var), samples):
        return Origin.PARAMETERS
    reader = _batch_reader(site, types)
    if is_of_a_part(site.X, site.axis, types, samples):
        return Origin.PART
    if reader is not None:
        return Origin.BATCH
    spreads = [samples.of(value) for value in (mean, var)]
    alone = all(each.axes and not each.mixed for each in spreads)
    return Origin.PART if alone else Origin.OTHER


def has_gradient(site: InferenceSite, types: Types, samples: SampleAxes, trained: Collection[str]) -> bool:
    """Whether gradients pass through the statistics of an op, although it does not train on its batch.

    `trained` has the names of the parameters with a gradient.
    """
    if _is_given(site.mean) and _is_given(site.var):
        return False
    origin = origin_of(site, types, samples)
    if origin is not Origin.PARAMETERS:
        return origin is not Origin.BATCH
    return any(value.name in trained for value in _made_of(site.mean, site.var))


def _read(site: InferenceSite | ForwardSite) -> tuple[ir.Value | None, ir.Value | None]:
    return (site.mean, site.var) if isinstance(site, InferenceSite) else (site.running_mean, site.running_var)


def _is_given(value: ir.Value) -> bool:
    """Whether a statistic is a parameter: a constant or an input, maybe copied, cast, reshaped or updated."""
    seen: set[ir.Node] = set()
    while (node := value.producer()) is not None and node not in seen:
        seen.add(node)
        before = _before_update(value, node)
        if before is None and node.domain == "" and node.op_type in _COPIES:
            before = node.inputs[0] if node.inputs else None
        if before is None:
            return node.domain == "" and node.op_type == "Constant"
        value = before
    return node is None


def _before_update(value: ir.Value, node: ir.Node) -> ir.Value | None:
    """The running statistic that a batch norm updates to a value; None if there is none."""
    for after, before in running_updates(node):
        if after is value:
            return before
    if node.op_type in ("BatchNormalization", "BatchNormInternal") and value in node.outputs[1:3]:
        index = 2 + node.outputs.index(value)
        return node.inputs[index] if index < len(node.inputs) else None
    return None


def _made_of(*values: ir.Value) -> Iterator[ir.Value]:
    """The values, and those from which they have their elements: shapes and types do not count."""
    seen, waiting = set(values), list(values)
    while waiting:
        value = waiting.pop()
        yield value
        node = value.producer()
        if node is None or (node.domain == "" and node.op_type in _OF_SHAPES):
            continue
        before = _before_update(value, node)
        read = [before] if before is not None else node.inputs[: 1 if node.op_type in ("CastLike", "Expand") else None]
        read = [*read, *read_inside(node)]
        new = {each for each in read if each is not None} - seen
        seen |= new
        waiting += new


def _is_of_data(X: ir.Value, statistics: tuple[ir.Value, ir.Value], samples: SampleAxes) -> bool:
    """Whether statistics depend on X, on its ancestors, or on samples; not only on parameters."""
    made, behind = set(_made_of(*statistics)), set(_made_of(X))
    if X in made or any(value.producer() is None and samples.of(value).axes for value in made):
        return True
    shared = made & behind
    return any(not _is_constant(value) for value in shared) or (bool(shared) and all(map(_is_constant_leaf, behind)))


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _is_constant_leaf(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_initializer()


def is_of_a_part(X: ir.Value, axis: int, types: Types, samples: SampleAxes) -> bool:
    """Whether each channel of X belongs to a single sample, or X has no samples: then X is not a batch norm's data."""
    shape, axes = types.shape(X), samples.of(X).axes
    if shape and axes and axis % len(shape) in axes:
        return True
    leaves = [value for value in _made_of(X) if value.producer() is None]
    return all(value.is_initializer() or samples.is_trained(value) for value in leaves)


def _batch_reader(site: InferenceSite | ForwardSite, types: Types) -> Reader | None:
    """Reads the statistics of a site as those of its batch; None if they are others."""
    mean, var = _read(site)
    for root in arrangements(site.X, types):
        reader = Reader(site.X, site.node, types, root)
        try:
            dims = reader.read(site.X).dims
            if dims is None or site.axis >= len(dims) or len(dims[site.axis]) != 1:
                continue
            (channel,) = dims[site.axis]
            if reader.read(mean).terms == reader.batch_mean(channel) and (
                reader.read(var).terms == reader.batch_variance(channel)
            ):
                return reader
        except NotPolynomialError:
            continue
    return None


def _of_batch(site: InferenceSite, types: Types) -> ForwardSite:
    """Reads an op in inference form as a batch norm that trains, with statistics that the graph computes."""
    reader = _batch_reader(site, types)
    assert reader is not None
    interior = tuple(reader.interior(site.mean, site.var))
    # The variance first: its ancestors read the mean, before the node.
    saved_var = read_behind(site.node, reader.variances, unused_without(site.node, interior, None))
    saved_mean = read_behind(site.node, reader.means, unused_without(site.node, interior, saved_var))
    return ForwardSite(
        node=site.node,
        form=site.form.removesuffix(")") + ", statistics of its batch)",
        axis=site.axis,
        epsilon=site.epsilon,
        momentum=site.momentum,
        X=site.X,
        scale=site.scale,
        B=site.B,
        running_mean=None,
        running_var=None,
        Y=site.Y,
        updated_mean=None,
        updated_var=None,
        saved_mean=saved_mean,
        saved_var=saved_var,
        saved_inv_std=None,
        updates_in_place=False,
        interior=interior,
    )


def _without_made_statistics(site: ForwardSite, types: Types) -> ForwardSite:
    """A batch norm that trains, without running statistics that are computed from its batch: nothing keeps them."""
    mean, var = site.running_mean, site.running_var
    if mean is None or var is None or is_used(site.updated_mean) or is_used(site.updated_var):
        return site
    if _is_given(mean) or _is_given(var) or site.X not in set(_made_of(mean, var)):
        return site
    reader = _batch_reader(site, types)
    interior = () if reader is None else tuple(reader.interior(mean, var))
    return replace(site, running_mean=None, running_var=None, updated_mean=None, updated_var=None, interior=interior)
