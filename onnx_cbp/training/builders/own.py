"""Our builder: makes training, evaluation and optimiser graphs, and a checkpoint, for any onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedOpsetsPass

from onnx_cbp.custom_ops.library import find_library
from onnx_cbp.custom_ops.schemas import register_schemas
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import (
    BackwardSite,
    DropTrainingOutputsPass,
    ForwardSite,
    ReduceGradientsPass,
    ToInferencePass,
    find_sites,
    label,
)
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.remove_unused_nodes import RemoveUnusedNodesPass
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.types import FLOATS, NO_NUMBERS
from onnx_cbp.graph_passes.differentiating import differentiate
from onnx_cbp.graph_passes.differentiating.builder import Builder
from onnx_cbp.graph_passes.distributing.denominator import LEAST
from onnx_cbp.graph_passes.distributing.loss_parts import refuse_reduced
from onnx_cbp.graph_passes.distributing.mixing import refuse_mixing, refuse_sizes
from onnx_cbp.graph_passes.distributing.reduce_gradients import BUCKET_CAP_MB
from onnx_cbp.graph_passes.distributing.split_means import split_means
from onnx_cbp.graph_passes.distributing.synchronize import Synchronization
from onnx_cbp.graph_passes.distributing.whole_batch_loss import add_over_replicas
from onnx_cbp.graph_passes.preparing.parameters.add_counters import AddCountersPass
from onnx_cbp.graph_passes.rewriting.modes.freeze import Freezing
from onnx_cbp.graph_passes.rewriting.running_statistics.cumulative import UPDATED
from onnx_cbp.graph_passes.rewriting.running_statistics.momentum import Momenta
from onnx_cbp.graph_passes.stepping.direct_convs import DirectConvsPass
from onnx_cbp.graph_passes.stepping.internal_batch_norms import InternalBatchNormsPass
from onnx_cbp.graph_passes.stepping.random_masks import RandomMasksPass
from onnx_cbp.graph_passes.stepping.training_graph import TrainingGraph
from onnx_cbp.ir_models import to_ir, to_proto
from onnx_cbp.model_files.model_io import save_model
from onnx_cbp.rewriting import rewrite
from onnx_cbp.training import checkpoints
from onnx_cbp.training.arguments import listed
from onnx_cbp.training.builders.forward import Forward, arrays_of, prepare
from onnx_cbp.training.checkpoints import Checkpoint
from onnx_cbp.training.losses import Loss
from onnx_cbp.training.optimizers import Optimizer, optimizer_model

_log = logging.getLogger("onnx_cbp")
_FIRST_RANDOM_STATE = 0


@dataclass(frozen=True)
class Wanted:
    """What to make from a forward graph.

    Attributes:
        requires_grad: names of what trains; None: all parameters that can train.
        frozen_params: names of other parameters of the checkpoint.
        loss: the loss of the outputs; or the name of an output that is the loss; None: the first output is.
        optimizer: None: no optimiser's graph.
        outputs: further values that become outputs.
        loss_inputs: what the loss reads instead of the graph's outputs.
        train_batch_norms: names of batch norms in inference form that must train.
        tied_params: names of what several modules share, if the model does not tell; None: not given.
        rewrite_options: of `onnx_cbp.rewrite`.
        direct_convs: whether convolutions may become our ops that are only for processors.
    """

    requires_grad: Sequence[str] | None
    frozen_params: Sequence[str]
    loss: Loss | str | None
    optimizer: Optimizer | None
    outputs: Sequence[str]
    loss_inputs: Sequence[str]
    train_batch_norms: Sequence[str] | None
    tied_params: Sequence[str] | None
    rewrite_options: Mapping[str, Any]
    direct_convs: bool = False


@dataclass(frozen=True)
class Made:
    """The results of the builder.

    Attributes:
        training, evaluation, optimizer: the graphs; the optimiser's only if it was wanted.
        checkpoint: the state at the beginning.
    """

    training: onnx.ModelProto
    evaluation: onnx.ModelProto
    optimizer: onnx.ModelProto | None
    checkpoint: Checkpoint

    def write(self, folder: Path, prefix: str, *, nominal: bool) -> None:
        """Write the files, under ONNX Runtime's names."""
        save_model(self.training, folder / f"{prefix}training_model.onnx")
        save_model(self.evaluation, folder / f"{prefix}eval_model.onnx")
        if self.optimizer is not None:
            save_model(self.optimizer, folder / f"{prefix}optimizer_model.onnx")
        checkpoints.save(self.checkpoint, folder / f"{prefix}checkpoint")
        if nominal:
            state = self.checkpoint
            empty = Checkpoint(state.parameters, state.trained, nominal=True, random_state=state.random_state)
            checkpoints.save(empty, folder / f"{prefix}nominal_checkpoint")


def make(source: onnx.ModelProto, wanted: Wanted) -> Made:
    """Make training artifacts of a forward graph.

    Raises:
        OnnxCbpError: one line: a name means nothing, the loss does not fit, an op has no gradient, or the graph would
            train as another network.
    """
    forward = prepare(source, wanted.requires_grad, wanted.frozen_params, wanted.train_batch_norms, wanted.tied_params)
    counters = AddCountersPass(*_averaged(wanted))
    counters(forward.model)
    forward.frozen += counters.names
    prepared = to_proto(forward.model, source)
    training, graph = _training(prepared, forward, wanted)
    model = forward.model
    known = dict.fromkeys((*graph.parameters, *forward.trained, *forward.frozen))
    state = Checkpoint(
        arrays_of(model, [name for name in known if name in model.graph.initializers]),
        trained=tuple(graph.gradients),
        random_state=None if graph.random_state is None else _FIRST_RANDOM_STATE,
    )
    optimizer = None
    if wanted.optimizer is not None:
        shapes = {name: state.parameters[name].shape for name in graph.gradients}
        dtype = ir.DataType.from_numpy(state.parameters[state.trained[0]].dtype)
        optimizer = ir.to_proto(optimizer_model(wanted.optimizer, shapes, model.opset_imports[""], dtype))
    return Made(training, _evaluation(prepared, forward, graph, wanted), optimizer, state)


def _averaged(wanted: Wanted) -> tuple[Momenta, Freezing]:
    """Which running statistics become averages over all batches, and which do not change."""
    options = wanted.rewrite_options
    return Momenta.of(options.get("momentum")), Freezing.of(options.get("freeze", ()))


def _own_ops(wanted: Wanted) -> bool:
    """Whether our ops without a Python op may replace standard ones."""
    return not wanted.rewrite_options.get("portable") and find_library() is not None


def _training(prepared: onnx.ModelProto, forward: Forward, wanted: Wanted) -> tuple[onnx.ModelProto, TrainingGraph]:
    model = to_ir(prepared)
    data_parallel = bool(wanted.rewrite_options.get("data_parallel"))
    if data_parallel:
        _refuse_own_samples(model, forward, wanted)
    InternalBatchNormsPass()(model)
    _refuse_arithmetic_gradients(model, wanted)
    random = RandomMasksPass()
    random(model)
    loss, values, sums = _loss(model, forward, wanted)
    parameters = [model.graph.initializers[name] for name in forward.trained]
    if data_parallel and not sums:
        sums = split_means(model, loss, parameters)
        loss, values, _ = _loss(model, forward, wanted)
    elif data_parallel:
        refuse_reduced(model, values[_scores(forward, wanted)[0]])
    own_ops = _own_ops(wanted)
    own_convolutions = own_ops and wanted.direct_convs
    # A checkpoint may give other values to what is frozen, too.
    frozen = [model.graph.initializers[name] for name in forward.frozen if name in model.graph.initializers]
    found = differentiate(model, loss, parameters, own_ops=own_ops, own_convolutions=own_convolutions, changing=frozen)
    gradients = dict(zip(forward.trained, found, strict=True))
    untrained = [name for name, gradient in gradients.items() if gradient is None]
    if untrained and forward.chosen:
        raise OnnxCbpError(f"requires_grad: the loss does not depend on '{untrained[0]}': leave it out")
    trained = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    if not trained:
        raise OnnxCbpError("nothing of the model trains: no parameter reaches the loss; name them in requires_grad")
    _check_types(model, list(trained))
    _set_outputs(model, [loss, *_more_outputs(model, wanted, values)])
    graph = TrainingGraph(
        loss.name or "",
        frozen=[*forward.frozen, *(name for name in untrained if name not in forward.frozen)],
        scores=_scores(forward, wanted),
    )
    names = Names(model)
    for name, gradient in trained.items():
        graph.gradients[name] = _named_output(model, gradient, f"{name}_grad", names)
    made = {value.name: value for node in model.graph for value in node.outputs}
    for statistic, updated in forward.updates.items():
        graph.updates[statistic] = _named_output(model, made[updated], updated, names)
    if random.state is not None:
        graph.random_state, updated = random.state
        graph.updates[graph.random_state] = _named_output(model, made[updated], updated, names)
    _tidy(model)
    counters = AddCountersPass(*_averaged(wanted))  # again, since unread counters were removed
    counters(model)
    options = dict(wanted.rewrite_options)
    options.pop("data_parallel", None)
    cap = options.pop("bucket_cap_mb", BUCKET_CAP_MB)
    if data_parallel:
        if options.get("portable"):
            raise OnnxCbpError(
                "portable and data_parallel exclude each other: without the library nothing communicates"
            )
        add_over_replicas(model, sums)
    graph.write(model)  # a rewrite asks which outputs are gradients
    if options or any(isinstance(site, ForwardSite | BackwardSite) for site in find_sites(model)):
        model = to_ir(rewrite(to_proto(model, prepared), **options))
    if own_convolutions:
        DirectConvsPass()(model)
    graph.updates.update({name: f"{name}{UPDATED}" for name in counters.names})
    # Of heads that the loss does not read, nothing is left: what they have stays in the checkpoint alone.
    graph.frozen = [name for name in graph.frozen if name in model.graph.initializers]
    graph.write(model)
    if data_parallel:
        ReduceGradientsPass(cap)(model)
    _parameters_as_inputs(model, graph.parameters)
    _tidy(model)
    register_schemas()
    return to_proto(model, prepared), graph


def _refuse_own_samples(model: ir.Model, forward: Forward, wanted: Wanted) -> None:
    """Refuse what each replica would compute of its own samples, and one process of the whole batch.

    A loss of the graph itself may have it anywhere, so no network can be told from it: batch norms alone are allowed.
    """
    sites = list(find_sites(model))
    if not isinstance(wanted.loss, Loss):
        loss, _, _ = _loss(model, forward, wanted)
        refuse_mixing(model, sites, loss)
    refuse_sizes(model, sites)


def _refuse_arithmetic_gradients(model: ir.Model, wanted: Wanted) -> None:
    """Refuse to synchronize a batch norm whose gradient is that of its arithmetic: it sums over one replica alone."""
    synchronization = Synchronization.of(wanted.rewrite_options.get("synchronize", False))
    if not synchronization:
        return
    freezing = Freezing.of(wanted.rewrite_options.get("freeze", ()))
    for site in find_sites(model):
        trains = isinstance(site, ForwardSite) and site.node.domain == "" and not freezing.chooses(site)
        if trains and synchronization.group(site) is not None:
            raise OnnxCbpError(
                f"node '{label(site.node)}' ({site.form}) cannot be synchronized: something else reads its statistics "
                "of the batch, through which gradients pass, too: let nothing else read them, or freeze it"
            )


def _evaluation(prepared: onnx.ModelProto, forward: Forward, graph: TrainingGraph, wanted: Wanted) -> onnx.ModelProto:
    model = to_ir(prepared)
    statistics = set(forward.updates.values())
    kept = [value for value in model.graph.outputs if value.name not in statistics]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    DropTrainingOutputsPass(evaluation=True)(model)
    ToInferencePass()(model)
    loss, values, _ = _loss(model, forward, wanted)
    _set_outputs(model, [loss, *_more_outputs(model, wanted, values)])
    _parameters_as_inputs(model, graph.parameters)
    TrainingGraph(loss.name or "", frozen=graph.parameters, scores=graph.scores).write(model)
    _tidy(model)
    read = {value.name for value in model.graph.inputs if value.uses() or value.is_graph_output()}
    for value in list(model.graph.inputs):
        if value.name in graph.parameters and value.name not in read:
            model.graph.inputs.remove(value)
    return to_proto(model, prepared)


def _scores(forward: Forward, wanted: Wanted) -> list[str]:
    """The values that the loss judges; [] if the loss is a value of the graph itself."""
    return [next(iter(wanted.loss_inputs or forward.outputs))] if isinstance(wanted.loss, Loss) else []


def _loss(model: ir.Model, forward: Forward, wanted: Wanted) -> tuple[ir.Value, dict[str, ir.Value], list[ir.Value]]:
    """The loss, the values by their names before it was written, and the sums over the batch from which it is computed.

    There are no sums if the loss is a value of the graph itself.
    """
    values = {v.name or "": v for v in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))}
    loss = wanted.loss
    if not isinstance(loss, Loss):
        name = loss or next(iter(wanted.loss_inputs or forward.outputs), "")
        if not name or name not in values:
            raise OnnxCbpError(f"loss: the graph has no value '{name}': name one of its outputs")
        return values[name], values, []
    read = list(wanted.loss_inputs or forward.outputs)
    for name in read:
        if name not in values:
            raise OnnxCbpError(f"loss_input_names: the graph has no value '{name}'")
    if not 1 <= len(read) <= 2:
        raise OnnxCbpError(
            f"loss: a {type(loss).__name__} reads scores and their {loss.target}, and the graph has {len(read)} "
            "outputs: name what it reads in loss_input_names"
        )
    scores = values[read[0]]
    g = Builder(model)
    if g.dtype(scores) not in FLOATS:
        raise OnnxCbpError(f"loss: '{scores.name}' has type {g.dtype(scores)}, and scores are floating-point numbers")
    dtype, dims = loss.target_type(g, scores)
    name = read[1] if len(read) == 2 else loss.target
    if name in values:  # as in ONNX Runtime: an existing input is used
        target = values[name]
        given = g.dtype(target)
        if given in NO_NUMBERS or (given in FLOATS and dtype not in FLOATS):
            raise OnnxCbpError(
                f"loss: '{name}' has type {given}, and the {loss.target} of the loss are {dtype}: cast it"
            )
        target = g.as_type(target, dtype)
    else:
        taken = loss.target in model.graph.initializers  # by a parameter
        name = Names(model).fresh(loss.target) if taken else loss.target
        target = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
        model.graph.inputs.append(target)
    total, count = loss.terms(g, scores, target)
    result = g.Identity(total) if loss.reduction == "sum" else g.Div(total, g.Max(count, g.scalar(LEAST, count)))
    g.commit([result])
    result.name = Names(model).fresh("loss")
    return result, values, [total] if loss.reduction == "sum" else [total, count]


def _more_outputs(model: ir.Model, wanted: Wanted, values: Mapping[str, ir.Value]) -> list[ir.Value]:
    made = {value.name: value for node in model.graph for value in node.outputs} | dict(values)
    unknown = [name for name in wanted.outputs if name not in made]
    if unknown:
        raise OnnxCbpError(
            f"additional_output_names: the graph has no value {listed(unknown)}: name values that it makes"
        )
    return [made[name] for name in wanted.outputs]


def _set_outputs(model: ir.Model, outputs: Sequence[ir.Value]) -> None:
    model.graph.outputs.clear()
    model.graph.outputs.extend(dict.fromkeys(outputs))


def _named_output(model: ir.Model, value: ir.Value, name: str, names: Names) -> str:
    """Make a value an output with this name; with its own name if it already has another role."""
    if value.producer() is None or value.is_graph_output():
        copy = ir.Value(name=names.fresh(name), type=value.type, shape=value.shape)
        model.graph.append(ir.node("Identity", [value], outputs=[copy], name=names.fresh(f"{name}/Identity")))
        value = copy
    elif value.name != name:
        value.name = names.fresh(name)
    model.graph.outputs.append(value)
    return value.name or ""


def _parameters_as_inputs(model: ir.Model, names: Sequence[str]) -> None:
    """Make initializers inputs; as in ONNX Runtime, their order stays, whether they train or not."""
    wanted = {*names}
    for name in [name for name in model.graph.initializers if name in wanted]:
        value = model.graph.initializers.pop(name)
        assert value.const_value is not None
        value.shape, value.const_value = ir.Shape(value.const_value.numpy().shape), None
        if value not in model.graph.inputs:
            model.graph.inputs.append(value)


def _check_types(model: ir.Model, trained: Sequence[str]) -> None:
    kinds = {name: model.graph.initializers[name].dtype for name in trained}
    wrong = next((name for name, kind in kinds.items() if kind != kinds[trained[0]]), None)
    if wrong is not None:
        raise OnnxCbpError(
            f"'{trained[0]}' has type {kinds[trained[0]]} and '{wrong}' {kinds[wrong]}: parameters that train have one "
            "type: freeze those of the other"
        )
    if kinds[trained[0]] not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        raise OnnxCbpError(f"'{trained[0]}' has type {kinds[trained[0]]}: what trains is float or double")


def _tidy(model: ir.Model) -> None:
    RemoveUnusedNodesPass()(model)
    for value in [v for v in model.graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
        del model.graph.initializers[value.name or ""]
    RemoveUnusedOpsetsPass()(model)
    infer_shapes(model)
