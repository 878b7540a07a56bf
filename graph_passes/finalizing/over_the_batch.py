"""Finds what a model at inference still computes over all samples of a batch together."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.sites import ForwardSite
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes

#: Ops that compute statistics of their data, or normalise with them.
_STATISTICS = (
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "GlobalAveragePool"),
    *("InstanceNormalization", "GroupNormalization", "LayerNormalization", "MeanVarianceNormalization"),
)


def taken_over_the_batch(model: ir.Model) -> list[ir.Node]:
    """The nodes that compute statistics over several samples, from which values of single samples are then computed.

    A batch norm in an unknown form does so, for example one with the variance over count - 1. Known batch norms do not
    count here, and neither does what enters a single number for the whole batch. What cannot be followed is left out.
    """
    makers = {node for node in all_nodes(model) if node.domain == "" and node.op_type in _STATISTICS}
    makers = {node for node in makers if _is_of_floats(node)}
    if not makers:
        return []
    types = Types(model)
    known = [site for site in find_sites(model) if isinstance(site, ForwardSite)]
    samples = SampleAxes(model, types, {site.Y: site.X for site in known})
    found: set[ir.Node] = set()
    for value in (*model.graph.outputs, *(site.X for site in known)):
        spread = samples.of(value)
        found |= spread.mixed & makers if spread.axes else set()
    return [node for node in all_nodes(model) if node in found and not _is_of_one_sample(node, types, samples)]


def _is_of_floats(node: ir.Node) -> bool:
    dtype = node.outputs[0].dtype
    return dtype is None or dtype.is_floating_point()


def _is_of_one_sample(node: ir.Node, types: Types, samples: SampleAxes) -> bool:
    """Whether a model takes one sample at a time, as a size of 1 tells."""
    data = node.inputs[0]
    shape = None if data is None else types.shape(data)
    axes = samples.of(data).axes if data is not None else None
    return shape is not None and axes is not None and all(axis < len(shape) and shape[axis] == 1 for axis in axes)
