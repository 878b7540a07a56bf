"""Prepares a forward graph for our builder: what trains, what is frozen, and what steps update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from onnx_cbp.bfloat16 import refuse_taken_too_early
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import (
    DropTrainingOutputsPass,
    DropZeroBiasPass,
    ExplicitPadsPass,
    FoldShapesPass,
    ForwardSite,
    InferenceSite,
    InlineAllFunctionsPass,
    InlineBranchesPass,
    Site,
    SqueezeEinsumsPass,
    TrainBatchNormsPass,
    UnpackSequencesPass,
    find_sites,
    label,
)
from onnx_cbp.graph_passes.core.inference import follow, has_long_vectors
from onnx_cbp.graph_passes.core.own_initializer import own_initializer
from onnx_cbp.graph_passes.core.remove_unused_nodes import RemoveUnusedNodesPass
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.sites import in_graph
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.core.wrong_shapes import drop_wrong_shapes
from onnx_cbp.graph_passes.differentiating.differentiate import OLDEST_OPSET
from onnx_cbp.ir_models import to_ir, to_proto
from onnx_cbp.training.arguments import check_parameters, listed
from onnx_cbp.training.builders.telling import tell_stops, tell_what_does_not_train
from onnx_cbp.training.builders.weights import (
    TRAINABLE,
    are_marked,
    is_weight,
    tell_constants,
    tell_guessed,
    tell_narrow,
    tell_others,
)
from onnx_cbp.training.taking_apart import take_apart
from onnx_cbp.validity import imported_opsets


@dataclass
class Forward:
    """A forward graph that is ready to be differentiated.

    Attributes:
        model: the graph; batch norms that train have their updated statistics among the outputs.
        outputs: the graph's own outputs, by name.
        trained: parameters that get a gradient, by name.
        frozen: the other parameters in the checkpoint, including running statistics.
        updates: for each running statistic, the output with its next value.
        chosen: whether a caller named what trains.
    """

    model: ir.Model
    outputs: list[str]
    trained: list[str]
    frozen: list[str]
    updates: dict[str, str]
    chosen: bool


def prepare(
    source: onnx.ModelProto,
    requires_grad: Sequence[str] | None,
    frozen_params: Sequence[str],
    patterns: Sequence[str] | None,
    tied_params: Sequence[str] | None,
) -> Forward:
    """Read a forward graph.

    Args:
        source: the graph; it is not changed.
        requires_grad: names of what trains; None: all parameters that can train.
        frozen_params: names of what does not train, but is kept in the checkpoint.
        patterns: batch norms in inference form that must train; None: not given, and a warning names them.
        tied_params: names of what several modules share, if the model does not tell; None: not given.

    Raises:
        OnnxCbpError: a name means nothing, or the graph would train as another network.
    """
    model = to_ir(_new_enough(source))
    InlineAllFunctionsPass()(model)
    _refuse_training_graph(model)
    SqueezeEinsumsPass()(model)  # inference would find wrong shapes
    drop_wrong_shapes(model)  # the loss and gradients are made for these shapes
    refuse_taken_too_early(model, but_batch_norms=True)
    requires_grad, frozen_params = take_apart(model, requires_grad, frozen_params, tied_params)
    outputs = [value.name or "" for value in model.graph.outputs]
    parameters = [name for name, value in model.graph.initializers.items() if value.dtype in TRAINABLE]
    constants = [value.name or "" for node in model.graph if node.op_type == "Constant" for value in node.outputs]
    tell_what_does_not_train(list(find_sites(model)), patterns)
    tell_stops(model, are_kept=True)
    if patterns:
        TrainBatchNormsPass(patterns)(model)
        parameters += [
            name for name, v in model.graph.initializers.items() if v.dtype in TRAINABLE and name not in parameters
        ]
    DropTrainingOutputsPass()(model)
    FoldShapesPass()(model)
    if InlineBranchesPass()(model).modified:
        FoldShapesPass()(model)
    UnpackSequencesPass()(model)
    # ONNX Runtime never computes SAME with dilations, and its error does not say what to do.
    ExplicitPadsPass([node for node in all_nodes(model) if _is_dilated(node)])(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    wanted = list(requires_grad) if requires_grad is not None else [n for n in parameters if n not in frozen_params]
    DropZeroBiasPass(wanted)(model)
    RemoveUnusedNodesPass()(model)
    updates = _updates(model)
    sites = list(find_sites(model))
    fixed = {
        value.name for s in sites if isinstance(s, InferenceSite) for v in (s.mean, s.var) for value in (in_graph(v),)
    }
    check_parameters(model, sites, requires_grad or (), frozen_params, updates)
    initializers = model.graph.initializers
    if requires_grad is None:
        left = [n for n in wanted if n in initializers and n not in updates and n not in fixed]
        affine = {
            in_graph(value) for s in sites if isinstance(s, ForwardSite | InferenceSite) for value in (s.scale, s.B)
        }
        marked = are_marked(initializers.values())
        trained = [n for n in left if initializers[n] in affine or is_weight(initializers[n], marked=marked)]
        if marked:
            tell_guessed([initializers[n] for n in trained if initializers[n] not in affine])
        tell_others([initializers[n] for n in left if n not in trained])
        tell_narrow((v for n, v in initializers.items() if n not in frozen_params), trains=bool(trained))
        tell_constants([initializers[n] for n in constants if n in initializers])
    else:
        # In the order of the model, as in ONNX Runtime, so that artifacts do not depend on that of the names.
        named = {*requires_grad}
        trained = [name for name in initializers if name in named]
    _refuse_merged(sites, trained)
    # The checkpoint also has the statistics of frozen batch norms, for callers who unfreeze them later.
    kept = [n for n in parameters if n in fixed and n in initializers]
    frozen = list(dict.fromkeys([*frozen_params, *updates, *kept]))
    return Forward(model, outputs, trained, frozen, updates, requires_grad is not None)


def _new_enough(source: onnx.ModelProto) -> onnx.ModelProto:
    """The model, converted to the oldest opset with gradients if its own is older."""
    opset = imported_opsets(source).get("", OLDEST_OPSET)  # there may be no node of it
    if opset >= OLDEST_OPSET:
        return source
    model = to_ir(source)  # the converter takes a valid model for granted
    InlineAllFunctionsPass()(model)  # it loses functions
    source = to_proto(model, source)
    known = follow(source, is_strict=False)
    if known is not None and has_long_vectors(known):
        raise OnnxCbpError(
            f"the model has opset {opset}, and gradients need {OLDEST_OPSET}: it makes vectors of millions of numbers, "
            f"each of which onnx.version_converter would follow: export it with opset {OLDEST_OPSET} or newer"
        )
    try:
        return onnx.version_converter.convert_version(source, OLDEST_OPSET)
    except Exception as error:  # the converter is C++, and can raise anything
        raise OnnxCbpError(
            f"the model has opset {opset}, and gradients need {OLDEST_OPSET}; onnx.version_converter cannot convert "
            f"it: {' '.join(str(error).split())}: export it with opset {OLDEST_OPSET} or newer"
        ) from error


def _refuse_training_graph(model: ir.Model) -> None:
    node = next((node for node in all_nodes(model) if node.op_type == "InPlaceAccumulatorV2"), None)
    if node is not None:
        raise OnnxCbpError(f"node '{label(node)}': the model is a training graph already: give the forward graph")


def _updates(model: ir.Model) -> dict[str, str]:
    """Make the updated running statistics outputs; if a module is called several times, those of the last call.

    Returns:
        For each statistic, the name of the output with its update.
    """
    names, constants = Names(model), Constants(model)
    latest: dict[ir.Value, ir.Value] = {}
    for site in find_sites(model):
        node = site.node
        if not isinstance(site, ForwardSite) or site.running_mean is None or site.running_var is None:
            continue
        if (node.domain, node.op_type) == ("", "BatchNormalization") and len(node.outputs) < 3:
            node.resize_outputs(3)  # nothing has asked for them yet
        updated = (site.updated_mean, site.updated_var)
        if (node.domain, node.op_type) == ("", "BatchNormalization"):
            updated = (node.outputs[1], node.outputs[2])
        for position, (given, after) in enumerate(zip((site.running_mean, site.running_var), updated, strict=True)):
            before = own_initializer(given, model, constants)
            if after is None or not before.is_initializer():
                continue
            if before in latest:  # the second call continues from the first
                node.replace_input_with(3 + position, latest[before])
            after.name = after.name or names.fresh(f"{before.name}_updated")
            after.type, after.shape = before.type, before.shape
            latest[before] = after
    for after in latest.values():
        if not after.is_graph_output():
            model.graph.outputs.append(after)
    return {before.name or "": after.name or "" for before, after in latest.items()}


def _refuse_merged(sites: Sequence[Site], trained: Sequence[str]) -> None:
    """Refuse a trained scale or bias that batch norms with separate statistics share: they would train as one."""
    read: dict[ir.Value, tuple[ir.Node, ir.Value]] = {}
    for site in sites:
        if not isinstance(site, ForwardSite | InferenceSite):
            continue
        statistics = site.running_mean if isinstance(site, ForwardSite) else site.mean
        for value in (in_graph(site.scale), in_graph(site.B)):
            if value.name not in trained or statistics is None:
                continue
            first, own = read.setdefault(value, (site.node, in_graph(statistics)))
            if own is not in_graph(statistics) and first is not site.node and not _is_update(in_graph(statistics), own):
                raise OnnxCbpError(
                    f"'{value.name}' is read by the batch norms {listed([label(first), label(site.node)])}, which have "
                    "running statistics of their own: the exporter merged equal parameters, and they would train as "
                    "one: export with optimize=False (or do_constant_folding=False), or freeze it"
                )


def _is_update(value: ir.Value, running: ir.Value) -> bool:
    node = value.producer()
    return node is not None and running in node.inputs


def shapes_of(model: ir.Model, names: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """The shapes of initializers."""
    return {name: tuple(_array(model, name).shape) for name in names}


def _array(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def arrays_of(model: ir.Model, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Copies of initializers."""
    return {name: np.array(_array(model, name)) for name in names}


def _is_dilated(node: ir.Node) -> bool:
    """Whether the elements that a convolution or a pool looks at are not neighbours."""
    given = node.attributes.get("dilations") if node.domain == "" else None
    return given is not None and any(size != 1 for size in given.as_ints())
