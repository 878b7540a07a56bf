"""Replaces batch norms that train by ChannelStats, ChannelNormalize and RunningStats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.scopes import import_domain
from onnx_cbp.graph_passes.sites import ForwardSite
from onnx_cbp.graph_passes.splice import Names, Splice, is_used, statistics_type
from onnx_cbp.graph_passes.types import Types


class ReplaceForwardPass(InPlacePass):
    """Every `ForwardSite` becomes channel ops.

        mean, var, count = ChannelStats(X)
        Y = ChannelNormalize(X, scale, B, mean, var)
        updated = RunningStats(running, batch, count)          for mean and variance, where something reads it
        InPlaceAccumulatorV2(running, updated, overwrite)      where the node wrote its running statistics in place

    The running statistics are written by a node of their own, after everything that reads them: an op that aliases
    them would bring back the wrong outputs that ONNX Runtime computes where equal initializers were merged.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, types = Names(model), Types(model)
        writes = _InPlaceWrites()
        modified = False
        for site in find_sites(model):
            if isinstance(site, ForwardSite):
                _replace(site, names, types, writes)
                modified = True
        if modified:
            import_domain(model)
        return PassResult(model, modified)


class _InPlaceWrites:
    """The node that writes each running statistic, and the value it writes.

    Layers that share statistics (one module called twice) update them one after the other: each step goes on from the
    one before, and only the last is written.
    """

    def __init__(self) -> None:
        # By graph too: a value made inside a subgraph cannot be read outside.
        self._writers: dict[tuple[ir.Value, ir.Graph | None], ir.Node] = {}

    def latest(self, running: ir.Value, graph: ir.Graph | None) -> ir.Value:
        """The running statistic as the steps so far have left it."""
        writer = self._writers.get((running, graph))
        if writer is None:
            return running
        updated = writer.inputs[1]
        assert updated is not None
        return updated

    def move(self, running: ir.Value, graph: ir.Graph | None, writer: ir.Node) -> None:
        """Let `writer` be the node that writes the statistic; an earlier one is removed."""
        earlier = self._writers.get((running, graph))
        if earlier is not None:
            assert earlier.graph is not None
            overwrite = earlier.inputs[2]
            assert overwrite is not None
            constant = overwrite.producer()
            assert constant is not None
            earlier.graph.remove((earlier, constant), safe=True)
        self._writers[running, graph] = writer


def _replace(site: ForwardSite, names: Names, types: Types, writes: _InPlaceWrites) -> None:
    splice = Splice(site.node, names, types)
    dtype = statistics_type(site.scale, types)
    vector = site.scale.shape
    scale = splice.cast(site.scale, dtype, "scale")
    B = splice.cast(site.B, dtype, "B")
    mean, var, count = splice.channel_op(
        "ChannelStats",
        (site.X,),
        (
            ("mean", dtype, vector),
            ("var", dtype, vector),
            ("count", ir.DataType.INT64, ir.Shape([])),
        ),
        axis=site.axis,
        stash_type=dtype.value,
    )
    (Y,) = splice.channel_op(
        "ChannelNormalize",
        (site.X, scale, B, mean, var),
        (("Y", site.X.dtype, site.X.shape),),
        axis=site.axis,
        epsilon=site.epsilon,
    )
    splice.hand_over(site.Y, Y)
    splice.hand_over(site.saved_mean, mean)
    splice.hand_over(site.saved_var, var)
    if is_used(site.saved_inv_std):
        splice.hand_over(site.saved_inv_std, _inv_std(splice, var, site.epsilon))
    for name, running, batch, updated in (
        ("running_mean", site.running_mean, mean, site.updated_mean),
        ("running_var", site.running_var, var, site.updated_var),
    ):
        written = site.updates_in_place and running is not None and is_parameter(running)
        if running is not None and (written or is_used(updated)):
            _update(
                splice,
                name,
                running,
                batch,
                count,
                updated,
                site.momentum,
                writes if written else None,
            )
    splice.commit()


def is_parameter(running: ir.Value) -> bool:
    """Whether the caller feeds a running statistic, so that it outlives the step; an initializer is a constant."""
    return running.is_graph_input() and not running.is_initializer()


def _inv_std(splice: Splice, var: ir.Value, epsilon: float) -> ir.Value:
    """1 / sqrt(var + epsilon), which backward sites read."""
    assert var.dtype is not None
    tensor = ir.tensor(np.asarray(epsilon, np.float32).astype(var.dtype.numpy()))
    epsilon_value = splice.constant("epsilon", tensor)
    (shifted,) = splice.add("Add", (var, epsilon_value), (("shifted_var", var.dtype, var.shape),))
    (std,) = splice.add("Sqrt", (shifted,), (("std", var.dtype, var.shape),))
    (inv_std,) = splice.add("Reciprocal", (std,), (("inv_std", var.dtype, var.shape),))
    return inv_std


def _update(
    splice: Splice,
    name: str,
    running: ir.Value,
    batch: ir.Value,
    count: ir.Value,
    updated: ir.Value | None,
    momentum: float,
    writes: _InPlaceWrites | None,
) -> None:
    dtype = batch.dtype
    assert dtype is not None
    before = running if writes is None else writes.latest(running, splice.node.graph)
    (new,) = splice.channel_op(
        "RunningStats",
        (splice.cast(before, dtype, name), batch, count),
        ((f"updated_{name}", dtype, batch.shape),),
        momentum=momentum,
        unbiased=0,  # ONNX, and ONNX Runtime, keep the biased variance
    )
    if running.dtype is not None:
        new = splice.cast(new, running.dtype, f"updated_{name}_as_before")
    new = splice.hand_over(updated, new)
    if writes is not None:
        overwrite = splice.constant(f"{name}_overwrite", ir.tensor(np.array([True])))
        (done,) = splice.add(
            "InPlaceAccumulatorV2",
            (running, new, overwrite),
            ((f"{name}_written", ir.DataType.BOOL, ir.Shape([1])),),
            domain="com.microsoft",
        )
        writer = done.producer()
        assert writer is not None
        writes.move(running, splice.node.graph, writer)
