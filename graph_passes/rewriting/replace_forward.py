"""Replaces batch norms that train by our ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import import_domain
from onnx_cbp.graph_passes.core.sites import ForwardSite, label
from onnx_cbp.graph_passes.core.splice import Draft, Names, Splice, is_used, statistics_type
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import is_rewritten_forward, say_without_running_statistics
from onnx_cbp.graph_passes.distributing.synchronize import Synchronization, merge_statistics
from onnx_cbp.graph_passes.rewriting.running_statistics.cumulative import Counters, averaging, count_batch, is_written


class ReplaceForwardPass(InPlacePass):
    """Replaces every `ForwardSite` by our ops.

    With `one_pass`, for replicas that do not synchronise:

        Y, mean, inv_std, updated_mean, updated_var = BatchNormTrainUpdate(X, scale, B, running_mean, running_var)
        Y, mean, var, count = BatchNormTrain(X, scale, B)      if it has no running statistics to move

    Without it, in steps between which statistics can be synchronised:

        mean, var, count = ChannelStats(X)
        Y = ChannelNormalize(X, scale, B, mean, var)
        updated = RunningStats(running, batch, count)          for mean and variance

    A site that `synchronization` chooses is replaced in steps, and its statistics are those of the group's whole batch:

        mean, var, count = ChannelStatsMerge(AllGather(ChannelStats(X)))

    In both cases, if the node wrote its running statistics in place:

        InPlaceAccumulatorV2(running, updated, overwrite)

    Batch norms that `cumulative` chooses average over all batches, like PyTorch's with momentum=None. Their op has
    momentum 0, so it returns the batch's statistics; ONNX's ops then compute the average
    (`running_statistics/cumulative.py`).

    With `unbiased_running_var`, running variances follow PyTorch's convention: they are updated with count / (count -
    1) of the batch's variance. ONNX and ONNX Runtime keep the biased variance.

    A separate node writes the running statistics, after everything that reads them. An op that aliases them would bring
    back the wrong outputs that ONNX Runtime computes if equal initializers were merged.
    """

    def __init__(
        self,
        *,
        one_pass: bool = False,
        synchronization: Synchronization | None = None,
        unbiased_running_var: bool = False,
        cumulative: Callable[[ir.Node], bool] = lambda _: False,
    ) -> None:
        super().__init__()
        self._one_pass = one_pass
        self._cumulative = cumulative
        self._unbiased = unbiased_running_var
        self._synchronization = synchronization or Synchronization({})

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, types = Names(model), Types(model)
        writes, counters = InPlaceWrites(), Counters(model)
        averaged = self._averaged(model, counters)
        modified = False
        for site in find_sites(model):
            if isinstance(site, ForwardSite):
                group = self._synchronization.group(site)
                one_pass = self._one_pass and group is None
                counts = counters if site.node in averaged else None
                _replace(site, names, types, writes, one_pass, group, counts, unbiased=self._unbiased)
                modified = True
        if modified:
            import_domain(model)
        return PassResult(model, modified)

    def _averaged(self, model: ir.Model, counters: Counters) -> set[ir.Node]:
        """The batch norms that average over all batches. If one of them cannot, nothing changes."""
        chosen = []
        for site in find_sites(model):
            has = isinstance(site, ForwardSite) and site.running_mean is not None and site.running_var is not None
            if isinstance(site, ForwardSite) and has and self._cumulative(site.node):
                counters.check(site, onnx_opset(model.opset_imports))
                chosen.append(site.node)
        return set(chosen)


class InPlaceWrites:
    """The node that writes each running statistic, and the value that it writes.

    Layers that share statistics (one module called twice) update them one after another: each step continues from the
    one before, and only the last value is written.
    """

    def __init__(self) -> None:
        # By graph too, since a value of a subgraph cannot be read outside.
        self._writers: dict[tuple[ir.Value, ir.Graph | None], ir.Node] = {}

    def latest(self, running: ir.Value, graph: ir.Graph | None) -> ir.Value:
        """The running statistic after the steps so far."""
        writer = self._writers.get((running, graph))
        if writer is None:
            return running
        updated = writer.inputs[1]
        assert updated is not None
        return updated

    def move(self, running: ir.Value, graph: ir.Graph | None, writer: ir.Node) -> None:
        """Let `writer` be the node that writes the statistic; remove an earlier one."""
        earlier = self._writers.get((running, graph))
        if earlier is not None:
            assert earlier.graph is not None
            overwrite = earlier.inputs[2]
            assert overwrite is not None
            constant = overwrite.producer()
            assert constant is not None
            earlier.graph.remove((earlier, constant), safe=True)
        self._writers[running, graph] = writer


@dataclass(frozen=True)
class _Running:
    """A running statistic that a site updates.

    Attributes:
        name: "running_mean" or "running_var".
        before: the value before the step, in its own type.
        dtype: that type; None if it is not known.
        updated: the site's value after the step, if it has one.
        written: whether the caller's array is written in place.
    """

    name: str
    before: ir.Value
    dtype: ir.DataType | None
    updated: ir.Value | None
    written: bool


def _running(site: ForwardSite, types: Types) -> list[_Running]:
    """The running statistics that a site updates, even if nothing reads the updated ones.

    `generate_artifacts` and `finalize` look for them.
    """
    result = []
    for name, before, updated in (
        ("running_mean", site.running_mean, site.updated_mean),
        ("running_var", site.running_var, site.updated_var),
    ):
        if before is not None:
            written = site.updates_in_place and is_parameter(before)
            if written or updated is not None:
                result.append(_Running(name, before, types.of(before), updated, written))
    return result


def _replace(
    site: ForwardSite,
    names: Names,
    types: Types,
    writes: InPlaceWrites,
    one_pass: bool,
    group: str | None,
    counters: Counters | None,
    *,
    unbiased: bool,
) -> None:
    splice = Splice(site.node, names, types)
    running = _running(site, types)
    average = None if counters is None else _Average(site, splice, writes, counters)
    if one_pass and len(running) == 2 and not is_used(site.saved_var):
        _in_one(site, splice, types, writes, running, average, unbiased)
    else:
        _in_steps(site, splice, types, writes, running, one_pass, group, average, unbiased)
        if site.running_mean is None:
            for node in splice.nodes:
                if is_rewritten_forward(node):
                    say_without_running_statistics(node)
    splice.commit(site.interior)


class _Average:
    """The average over all batches, for a site whose op returns the statistics of one batch."""

    def __init__(self, site: ForwardSite, splice: Splice, writes: InPlaceWrites, counters: Counters) -> None:
        self._site, self._splice, self._writes, self._counters = site, splice, writes, counters
        self._behind: ir.Value | None = None
        self._before = counters.before(site)

    def append(self, elements: ir.Value, dtype: ir.DataType) -> Callable[[ir.Value, ir.Value, str], ir.Value]:
        """Append the nodes that count a batch of this size; returns a function that appends a statistic's average."""
        before, graph = self._before, self._splice.node.graph
        if is_written(self._site):
            before = self._writes.latest(self._before, graph)
        self._behind, part = count_batch(self._splice, before, elements)
        if is_written(self._site):
            writer = write_in_place(self._splice, "num_batches_tracked", self._before, self._behind)
            self._writes.move(self._before, graph, writer)
        return averaging(self._splice, part, dtype)

    def goes_on(self, updated_mean: ir.Value) -> None:
        """Let the next call of the module, which reads `updated_mean`, continue the count."""
        if not is_written(self._site) and self._behind is not None:
            self._counters.move(updated_mean, self._before, self._behind)


def _in_one(
    site: ForwardSite,
    splice: Splice,
    types: Types,
    writes: InPlaceWrites,
    running: list[_Running],
    average: _Average | None,
    unbiased: bool,
) -> None:
    dtype = statistics_type(site.scale, types)
    vector = site.scale.shape
    before = [splice.cast(_latest(each, splice, writes), dtype, each.name) for each in running]
    Y, mean, inv_std, *updated = splice.channel_op(
        "BatchNormTrainUpdate",
        (site.X, splice.cast(site.scale, dtype, "scale"), splice.cast(site.B, dtype, "B"), *before),
        (
            ("Y", site.X.dtype, site.X.shape),
            ("mean", dtype, vector),
            ("inv_std", dtype, vector),
            ("updated_running_mean", dtype, vector),
            ("updated_running_var", dtype, vector),
        ),
        axis=site.axis,
        epsilon=site.epsilon,
        momentum=site.momentum if average is None else 0.0,
        unbiased=int(unbiased),
        relu=0,
    )
    if average is not None:
        (elements,) = splice.add("Size", (site.X,), (("elements", ir.DataType.INT64, ir.Shape([])),))
        of = average.append(elements, dtype)
        updated = [of(old, new, each.name) for each, old, new in zip(running, before, updated, strict=True)]
    splice.hand_over(site.Y, Y)
    saved_type = _saved_type(site, types)
    splice.hand_over(site.saved_mean, mean, saved_type)
    splice.hand_over(site.saved_inv_std, inv_std, saved_type)
    for each, new in zip(running, updated, strict=True):
        _keep(each, new, splice, writes, average)


def _in_steps(
    site: ForwardSite,
    splice: Splice,
    types: Types,
    writes: InPlaceWrites,
    running: list[_Running],
    one_pass: bool,
    group: str | None,
    average: _Average | None,
    unbiased: bool,
) -> None:
    dtype = statistics_type(site.scale, types)
    vector = site.scale.shape
    scale = splice.cast(site.scale, dtype, "scale")
    B = splice.cast(site.B, dtype, "B")
    results = (("mean", dtype, vector), ("var", dtype, vector), ("count", ir.DataType.INT64, ir.Shape([])))
    normal = ("Y", site.X.dtype, site.X.shape)
    if one_pass:
        Y, mean, var, count = splice.channel_op(
            "BatchNormTrain", (site.X, scale, B), (normal, *results), axis=site.axis, epsilon=site.epsilon
        )
    else:
        mean, var, count = splice.channel_op("ChannelStats", (site.X,), results, axis=site.axis, stash_type=dtype.value)
        if group is not None:
            mean, var, count = merge_statistics(splice, (mean, var, count), group, label(site.node))
        (Y,) = splice.channel_op(
            "ChannelNormalize", (site.X, scale, B, mean, var), (normal,), axis=site.axis, epsilon=site.epsilon
        )
    splice.hand_over(site.Y, Y)
    saved_type = _saved_type(site, types)
    splice.hand_over(site.saved_mean, mean, saved_type)
    splice.hand_over(site.saved_var, var, saved_type)
    if is_used(site.saved_inv_std):
        splice.hand_over(site.saved_inv_std, reciprocal_std(splice, var, dtype, site.epsilon), saved_type)
    of = None if average is None else average.append(count, dtype)
    for each in running:
        batch = mean if each.name == "running_mean" else var
        before = splice.cast(_latest(each, splice, writes), dtype, each.name)
        (new,) = splice.channel_op(
            "RunningStats",
            (before, batch, count),
            ((f"updated_{each.name}", dtype, batch.shape),),
            momentum=site.momentum if of is None else 0.0,
            unbiased=int(unbiased and batch is var),
        )
        _keep(each, new if of is None else of(before, new, each.name), splice, writes, average)


def _saved_type(site: ForwardSite, types: Types) -> ir.DataType | None:
    """The type that the op gives to saved statistics: that of the running ones."""
    return None if site.running_mean is None else types.of(site.running_mean)


def is_parameter(running: ir.Value) -> bool:
    """Whether the caller feeds a running statistic, so that it outlives the step. An initializer is a constant."""
    return running.is_graph_input() and not running.is_initializer()


def reciprocal_std(splice: Splice, var: ir.Value, dtype: ir.DataType, epsilon: float) -> ir.Value:
    """Append 1 / sqrt(var + epsilon), which gradients read; `dtype` is the type of `var`."""
    epsilon_value = splice.constant("epsilon", ir.tensor(np.asarray(epsilon, np.float32).astype(dtype.numpy())))
    (shifted,) = splice.add("Add", (var, epsilon_value), (("shifted_var", dtype, var.shape),))
    (std,) = splice.add("Sqrt", (shifted,), (("std", dtype, var.shape),))
    (inv_std,) = splice.add("Reciprocal", (std,), (("inv_std", dtype, var.shape),))
    return inv_std


def _latest(running: _Running, splice: Splice, writes: InPlaceWrites) -> ir.Value:
    return writes.latest(running.before, splice.node.graph) if running.written else running.before


def _keep(
    running: _Running, new: ir.Value, splice: Splice, writes: InPlaceWrites, average: _Average | None = None
) -> None:
    """Give the updated statistic to all its readers, and write it in place if the site did."""
    if running.dtype is not None:
        new = splice.cast(new, running.dtype, f"updated_{running.name}_as_before")
    new = splice.hand_over(running.updated, new)
    if average is not None and running.name == "running_mean":
        average.goes_on(new)
    if running.written:
        writes.move(running.before, splice.node.graph, write_in_place(splice, running.name, running.before, new))


def write_in_place(draft: Draft, name: str, running: ir.Value, new: ir.Value) -> ir.Node:
    """Append the node that writes a running statistic into the caller's array."""
    overwrite = draft.constant(f"{name}_overwrite", ir.tensor(np.array([True])))
    (done,) = draft.add(
        "InPlaceAccumulatorV2",
        (running, new, overwrite),
        ((f"{name}_written", ir.DataType.BOOL, ir.Shape([1])),),
        domain="com.microsoft",
    )
    writer = done.producer()
    assert writer is not None
    return writer
