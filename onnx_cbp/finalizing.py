"""`finalize`: makes a model for inference in ONNX's own ops from a training, evaluation or forward graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError
from onnx_ir.passes.common import (
    RemoveInitializersFromInputsPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedOpsetsPass,
    TopologicalSortPass,
)
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError, foreign
from onnx_cbp.graph_passes import (
    CancelTransposesPass,
    DropZeroBiasPass,
    FoldAffinePass,
    FoldBatchNormPass,
    FoldConstantsPass,
    InferenceSite,
    InlineAllFunctionsPass,
    InlineBranchesPass,
    RemoveUnusedPass,
    ScalarRangesPass,
    SetOutputsPass,
    ToInferencePass,
    UnpackSequencesPass,
    find_sites,
    label,
)
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.scopes import all_nodes, import_domain
from onnx_cbp.graph_passes.core.values.constants import RANDOM
from onnx_cbp.graph_passes.finalizing.forget_training import ForgetTrainingPass
from onnx_cbp.graph_passes.finalizing.inference_outputs import (
    inference_outputs,
    inputs_of_outputs,
    named_outputs,
    parameters,
)
from onnx_cbp.graph_passes.finalizing.over_the_batch import taken_over_the_batch
from onnx_cbp.graph_passes.finalizing.to_inference import training_left
from onnx_cbp.ir_models import ModelSource, read_model, to_ir, to_proto
from onnx_cbp.model_files.map_types import restore_map_types
from onnx_cbp.model_files.model_tensors import without_large
from onnx_cbp.training.parameters import CheckpointParameters
from onnx_cbp.validity import check

_log = logging.getLogger("onnx_cbp")

#: Since this IR version an initializer need not be an input, and is then a constant.
_CONSTANTS_SINCE = 4
#: Who writes a batch norm without running statistics only where the module has none.
_PYTORCH = "pytorch"
_NOT_ONNX = (DOMAIN, "com.microsoft", "com.microsoft.nchwc", "ai.onnx.training", "ai.onnx.preview.training")


@dataclass(frozen=True)
class Finalized:
    """What `finalize` did.

    Attributes:
        inputs, outputs: names of the result's inputs and outputs.
        batch_norms: how many batch norms the network has; arithmetic of a factor and a summand a channel that went into
            the weights before it counts as one, since that is all that a gradient builder leaves of a frozen one.
        folded: how many of them went into the weights before them.
        by_batch: the nodes of further ones, which have no running statistics: they normalise with those of the batch.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch_norms: int
    folded: int
    by_batch: tuple[str, ...] = ()


def finalize(
    model: ModelSource,
    *,
    checkpoint: Any = None,
    outputs: str | Sequence[str] | None = None,
    keep_batch_statistics: bool = False,
    report: Callable[[Finalized], object] | None = None,
) -> onnx.ModelProto:
    """The model for inference: ONNX's own ops, parameters as constants, batch norms folded into weights.

    Takes ONNX Runtime's training graphs, as generated or rewritten in any way, its evaluation graphs, and forward
    graphs as exporters write them. Loss, labels, gradients and everything else that only training needs go; batch norms
    take their running statistics, Dropout lets everything through. A batch norm behind a Conv, ConvTranspose, Gemm or
    MatMul with constant weights is folded into these in float64, where nothing else reads that op's result. The other
    inputs keep their names, types and shapes.

    A batch norm that has no running statistics is refused, since what it gives for a sample depends on the others. A
    module of PyTorch without them (track_running_stats=False) takes those of the batch in evaluation mode, too, and so
    it does here; one line of the log (logger "onnx_cbp") names those. Another line names what takes samples together
    and is no batch norm that is known, if anything does: what it computes stays as it is.

    Args:
        model: a model or the path of one; it is not changed.
        checkpoint: a `CheckpointState` of `onnx_cbp.training` or of ONNX Runtime, or the path of a checkpoint, with the
            values of the parameters, running statistics among them. Where the model has a value of its own, the
            checkpoint's is taken.
        outputs: names of the values to keep as outputs. By default what feeds the loss, and the outputs that are no
            loss, gradient or statistic; of a graph without a loss, its outputs but statistics.
        keep_batch_statistics: let batch norms without running statistics take those of the batch, whoever wrote the
            model.
        report: called with what was done.

    Returns:
        The model; it passes onnx.checker's full check, but for inputs and outputs whose rank the model does not say,
        which ONNX Runtime takes and onnx.checker does not.

    Raises:
        OnnxCbpError: one line: the model or the checkpoint cannot be read; parameters are inputs and no checkpoint has
            them; what feeds the loss cannot be told, or there is no value of a name in `outputs`; a batch norm has
            no running statistics; an op that the outputs need is none of ONNX's.
    """
    source = read_model(model)
    result = to_ir(source)
    ours = ForgetTrainingPass()
    ours(result)
    InlineAllFunctionsPass()(result)
    values = CheckpointParameters.of(checkpoint)
    for identifier in [identifier for identifier in result.functions if identifier[0] == DOMAIN]:
        del result.functions[identifier]  # bodies: their ops are read as ops
    RemoveUnusedFunctionsPass()(result)
    import_domain(result)
    infer_shapes(result)
    FoldConstantsPass()(result)  # axes that are computed hide the shape of what is reduced over them
    UnpackSequencesPass()(result)
    if InlineBranchesPass()(result).modified:  # ONNX Runtime refuses some whose condition is a constant
        infer_shapes(result)
        FoldConstantsPass()(result)
    ScalarRangesPass()(result)
    known = parameters(result, {*values, *ours.parameters})
    read = inputs_of_outputs(result)
    kept = _outputs(result, known, (outputs,) if isinstance(outputs, str) else outputs)
    if values:
        _take(result, values)
    SetOutputsPass(kept)(result)
    result.ir_version = max(result.ir_version, _CONSTANTS_SINCE)
    RemoveInitializersFromInputsPass()(result)
    DropZeroBiasPass(misshapen=True)(result)
    inference = ToInferencePass()
    inference(result)
    CancelTransposesPass()(result)
    RemoveUnusedPass(read)(result)
    with foreign("the model cannot be finalized"):
        TopologicalSortPass()(result)
    if ToInferencePass()(result).modified:  # arithmetic that gradients read, too, until now
        CancelTransposesPass()(result)
        RemoveUnusedPass(read)(result)
        TopologicalSortPass()(result)
    _refuse_training(result)
    by_batch = tuple(name for name, Y in inference.by_batch if _is_made(Y))
    if by_batch:
        _tell_of_batch_statistics(by_batch, allowed=keep_batch_statistics or source.producer_name == _PYTORCH)
    _refuse_free_parameters(result, known, values)
    _tell_of_the_batch(taken_over_the_batch(result))
    batch_norms = sum(isinstance(site, InferenceSite) for site in find_sites(result))
    fold = FoldBatchNormPass()
    fold(result)
    affine = FoldAffinePass()
    affine(result)
    RemoveUnusedPass(read)(result)
    _refuse_other_ops(result)
    RemoveUnusedFunctionsPass()(result)
    RemoveUnusedOpsetsPass()(result)
    _complete(result)
    finished = to_proto(result, _without_training(source))
    restore_map_types(finished, source)
    _check(finished)
    if report is not None:
        graph = finished.graph
        names = tuple(v.name for v in graph.input), tuple(v.name for v in graph.output)
        more = len(affine.into - fold.into)  # of one batch norm, both may have found a part
        report(Finalized(*names, batch_norms + more, fold.folded + more, by_batch))
    return finished


def _outputs(model: ir.Model, known: set[ir.Value], names: Sequence[str] | None) -> list[ir.Value]:
    return inference_outputs(model, known) if names is None else named_outputs(model, names)


def _take(model: ir.Model, values: CheckpointParameters) -> None:
    """Give the graph's parameters the checkpoint's values."""
    graph = model.graph
    taken = False
    for name in values:
        value = graph.initializers.get(name) or next((v for v in graph.inputs if v.name == name), None)
        if value is None:
            continue  # one that this graph does not read
        array = values.get(name)
        tensor = ir.tensor(array, name=name)
        shape = value.shape
        if (shape is not None and not _fits(shape, array.shape)) or value.dtype not in (None, tensor.dtype):
            raise OnnxCbpError(
                f"'{name}' is {tensor.dtype}{list(array.shape)} in {values} and {value.dtype}{shape} in the model: "
                "name the checkpoint that belongs to it"
            )
        value.const_value = tensor
        if value.type is None:
            value.type = ir.TensorType(tensor.dtype)
        value.shape = ir.Shape(array.shape)
        if value in graph.inputs:
            graph.inputs.remove(value)
        if name not in graph.initializers:
            graph.register_initializer(value)
        taken = True
    if not taken:
        raise OnnxCbpError(f"{values} has none of the model's parameters: name the checkpoint that belongs to it")


def _fits(shape: ir.Shape, given: tuple[int, ...]) -> bool:
    return len(shape) == len(given) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(shape, given, strict=True)
    )


def _tell_of_batch_statistics(nodes: Sequence[str], *, allowed: bool) -> None:
    """Name the batch norms without running statistics; refuse them where they are not allowed."""
    names = ", ".join(f"'{name}'" for name in nodes)
    if not allowed:
        raise OnnxCbpError(
            f"node {names} cannot be finalized: it has no running statistics, and with those of the batch a sample's "
            "result would depend on the others: export the model in evaluation mode, or, if that is meant, keep them "
            "with --keep-batch-statistics"
        )
    _log.warning(
        "batch norms without running statistics take those of the batch (%s): what they give for a sample depends on "
        "the others",
        names,
    )


def _tell_of_the_batch(nodes: Sequence[ir.Node]) -> None:
    """Name what takes samples together, which may be a batch norm of a form that is not known."""
    if not nodes:
        return
    first, more = nodes[0], len(nodes) - 1
    _log.warning(
        "node '%s' (%s) takes values together along the first axis of the inputs%s, and is part of no batch norm that "
        "is known: if that is the axis of the samples, what the model gives for one depends on the others",
        label(first),
        first.op_type,
        f", as {more} more do" if more > 1 else ", as another does" if more else "",
    )


def _is_made(value: ir.Value) -> bool:
    """Whether the node that makes a value is still in its graph."""
    producer = value.producer()
    return producer is not None and producer.graph is not None


def _refuse_training(model: ir.Model) -> None:
    left = training_left(model)
    if left is not None:
        raise OnnxCbpError(f"node '{label(left.node)}' ({left.form}) cannot be finalized: {left.reason}")


def _refuse_free_parameters(model: ir.Model, known: set[ir.Value], values: CheckpointParameters) -> None:
    free = [value.name for value in model.graph.inputs if value in known]
    if not free:
        return
    some = ", ".join(f"'{name}'" for name in free[:3]) + (", ..." if len(free) > 3 else "")
    if not values:
        raise OnnxCbpError(f"parameters are inputs of the graph ({some}): give their values with --checkpoint")
    raise OnnxCbpError(f"{values} has no value for {some}: name the checkpoint that belongs to it")


def _refuse_other_ops(model: ir.Model) -> None:
    for node in all_nodes(model):
        if node.domain == "" and node.op_type in RANDOM:  # a Dropout as such lets all through by now
            raise OnnxCbpError(
                f"node '{label(node)}' ({node.op_type}) makes the result random, as a dropout that an exporter has "
                "taken apart does: export the model in evaluation mode, or name other outputs with --output-name"
            )
        if node.domain in _NOT_ONNX:
            raise OnnxCbpError(
                f"node '{label(node)}' ({node.domain}.{node.op_type}) is none of ONNX's ops, and the outputs need it: "
                "name others with --output-name"
            )


def _complete(model: ir.Model) -> None:
    """Give each value the type and shape that ONNX's inference finds, now that it knows every op."""
    for node in RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.type is None:
                value.shape = None  # a shape alone is not valid
    infer_shapes(model)


def _without_training(source: onnx.ModelProto) -> onnx.ModelProto:
    """What `to_proto` takes from the source, but how to train it."""
    kept = onnx.ModelProto()
    kept.graph.sparse_initializer.extend(source.graph.sparse_initializer)
    return kept


def _check(model: onnx.ModelProto) -> None:
    """Hold the model against ONNX's checker, which takes a copy of it: one without the data of large tensors."""
    ranks = all(value.type.tensor_type.HasField("shape") for value in (*model.graph.input, *model.graph.output))
    if not ranks or model.functions:  # what onnx.checker does not take: unknown ranks, functions of another opset
        check(model)
        return
    skeleton = _with_weights_as_inputs(model)
    with foreign("the model at inference is not valid ONNX"):
        try:
            onnx.checker.check_model(skeleton, full_check=True)
        except (ValueError, EncodeError):
            return  # what is left is larger than one message: it can be checked on disk only


def _with_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model that is fed with its large initializers."""
    skeleton, large = without_large(model)
    graph = skeleton.graph
    weights = [each.place for each in large if each.holder == "graph"]
    for each in large:
        if each.holder != "graph":
            each.place.CopyFrom(each.tensor)
    graph.input.extend(onnx.helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights)
    for weight in weights:
        graph.initializer.remove(weight)
    return skeleton
