"""Refuses graphs in which each replica would mix only its own samples."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, Site, in_graph, label
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes
from onnx_cbp.graph_passes.dialects import is_rewritten_forward
from onnx_cbp.graph_passes.distributing.batch_size import refuse_batch_size
from onnx_cbp.graph_passes.stepping.training_graph import TrainingGraph


def refuse_mixing(model: ir.Model, sites: Sequence[Site], loss: ir.Value | None = None) -> None:
    """Refuse a graph that computes something over the samples of a batch, other than known batch norms and losses.

    Samples are followed from the inputs on. What a node computes from several samples may enter a loss, which is a
    single number. It must not enter values of single samples again: there, a replica would use only its own samples,
    and one process the whole batch. In a graph without gradients such a value must not be an output either, unless it
    is a single number. Also, values of samples must not depend on the batch size, which differs between replicas
    (`batch_size`). Gradients follow from what comes before the loss, so they are not checked. What cannot be followed
    (a Scan, or an op of an unknown domain that changes the rank) is not refused.

    Args:
        model: before anything in it is replaced.
        sites: its batch norms.
        loss: if it is given, only what it is made of is checked, and not what else the graph returns.

    Raises:
        OnnxCbpError: there is such a node; one line.
    """
    types = Types(model)
    recognised = dict(_recognised(model, sites))
    samples = SampleAxes(model, types, recognised)
    forward, has_gradients = _forward_outputs(model, sites) if loss is None else ([loss], False)
    of_loss = _of_losses(forward, samples, types)
    needed = _needed(forward, sites, set(recognised))
    mend = _FOR_BATCH_NORMS if loss is None else _FOR_LOSSES
    for node in RecursiveGraphIterator(model.graph):
        if node.graph is model.graph and node not in needed:
            continue
        for value in node.outputs:
            spread = samples.of(value)
            mixing = spread.mixed - of_loss
            if mixing and spread.axes:
                gives = f"node '{label(node)}' ({node.op_type}) gives"
                raise OnnxCbpError(_reason(mixing, node, samples, gives, mend))
    for value in () if has_gradients else forward:
        spread = samples.of(value)
        mixing = spread.mixed - of_loss
        if mixing and not _is_single(value, types):
            raise OnnxCbpError(_reason(mixing, None, samples, f"the output '{value.name}' is made of", mend))
    refuse_batch_size(model, samples, types, needed)


def refuse_sizes(model: ir.Model, sites: Sequence[Site]) -> None:
    """Refuse only what computes with the batch size; a loss over all replicas' samples uses the size of all.

    Args:
        model: before anything in it is replaced.
        sites: its batch norms.

    Raises:
        OnnxCbpError: there is such a node; one line.
    """
    types = Types(model)
    recognised = dict(_recognised(model, sites))
    needed = _needed(_forward_outputs(model, sites)[0], sites, set(recognised))
    refuse_batch_size(model, SampleAxes(model, types, recognised), types, needed)


def _recognised(model: ir.Model, sites: Sequence[Site]) -> list[tuple[ir.Value, ir.Value | None]]:
    """The results of batch norms, whose samples lie as in their data, and their statistics, which have no samples."""
    found: list[tuple[ir.Value, ir.Value | None]] = []
    for site in sites:
        if isinstance(site, ForwardSite):
            statistics = (site.updated_mean, site.updated_var, site.saved_mean, site.saved_var, site.saved_inv_std)
            found += [(value, None) for value in statistics if value is not None]
            found.append((site.Y, site.X))
    for node in RecursiveGraphIterator(model.graph):
        if node.domain == DOMAIN:
            found += [(value, None) for value in node.outputs]
            if is_rewritten_forward(node) and node.inputs[0] is not None:
                found.append((node.outputs[0], node.inputs[0]))
    return found


def _forward_outputs(model: ir.Model, sites: Sequence[Site]) -> tuple[list[ir.Value], bool]:
    """The graph's outputs that are not gradients, and whether it has gradients."""
    gradients = {value for site in sites if isinstance(site, BackwardSite) for value in site.node.outputs}
    accumulated = {node for node in model.graph if node.op_type == "InPlaceAccumulatorV2"}
    ours = TrainingGraph.of(model)
    named = set() if ours is None else set(ours.gradients.values())
    forward = [
        value
        for value in model.graph.outputs
        if value.name not in named
        and value.producer() not in accumulated
        and not any(each in gradients for each in made_of(value))
    ]
    return forward, bool(gradients or accumulated or named)


def _needed(outputs: Sequence[ir.Value], sites: Sequence[Site], recognised: set[ir.Value]) -> set[ir.Node]:
    """The nodes that compute outputs, without those inside batch norms."""
    given = {site.Y: (site.X, site.scale, site.B) for site in sites if isinstance(site, ForwardSite)}
    found: set[ir.Node] = set()
    seen: set[ir.Value] = set()
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or value in seen:
            continue
        seen.add(value)
        if value in given:
            waiting += [in_graph(each) for each in given[value]]
        elif value not in recognised or node.domain == DOMAIN:
            found.add(node)
            waiting += [each for each in node.inputs if each is not None]
    return found


def _of_losses(outputs: Sequence[ir.Value], samples: SampleAxes, types: Types) -> set[ir.Node]:
    """The nodes that reduce all samples to single numbers, from which outputs of one number are computed."""
    found: set[ir.Node] = set()
    seen: set[ir.Value] = set()
    waiting = [value for value in outputs if _is_single(value, types)]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or value in seen or samples.of(value).axes != frozenset():
            continue
        seen.add(value)
        if node in samples.of(value).mixed:
            found.add(node)
        else:
            waiting += [each for each in node.inputs if each is not None]
    return found


def _is_single(value: ir.Value, types: Types) -> bool:
    """Whether a value is one number, or has an unknown shape."""
    shape = types.shape(value)
    return shape is None or all(size == 1 for size in shape)


#: What to do about a graph that is refused.
_FOR_BATCH_NORMS = "write it as BatchNormalization, or name the batch norms to synchronize"
_FOR_LOSSES = "let the loss take samples together last, in a ReduceMean or ReduceSum of all"


def _reason(mixing: frozenset[ir.Node], node: ir.Node | None, samples: SampleAxes, where: str, mend: str) -> str:
    first = min(mixing, key=label)
    read = [value for value in first.inputs if value is not None and samples.of(value).axes]
    name = f"'{read[0].name}'" if read else "its inputs"
    goes_on = "" if first is node else f", and {where} what comes of it"
    return (
        f"node '{label(first)}' ({first.op_type}) takes {name} together over the samples of a batch{goes_on}: it is no "
        f"part of a batch norm that is known, so each replica would take its own samples alone: {mend}"
    )
