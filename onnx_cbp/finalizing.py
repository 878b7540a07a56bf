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

from onnx_cbp.bfloat16 import refuse_taken_too_early
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
from onnx_cbp.graph_passes.core.mean_variance import write_axes
from onnx_cbp.graph_passes.core.scopes import all_nodes, import_domain
from onnx_cbp.graph_passes.core.values.constants import RANDOM
from onnx_cbp.graph_passes.core.wrong_shapes import drop_wrong_shapes
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

#: Since this IR version an initializer need not be an input; if it is none, it is a constant.
_CONSTANTS_SINCE = 4
#: This exporter writes a batch norm without running statistics only if the module has none.
_PYTORCH = "pytorch"
_NOT_ONNX = (DOMAIN, "com.microsoft", "com.microsoft.nchwc", "ai.onnx.training", "ai.onnx.preview.training")


@dataclass(frozen=True)
class Finalized:
    """A summary of what `finalize` did.

    Attributes:
        inputs, outputs: names of the result's inputs and outputs.
        batch_norms: how many batch norms the network has. Arithmetic with a factor and a summand per channel counts as
            one if it was folded, since a gradient builder leaves nothing else of a frozen batch norm.
        folded: how many of them were folded into the weights before them.
        by_batch: the nodes of batch norms without running statistics, which normalise with those of the batch.
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

    It accepts ONNX Runtime's training graphs, as generated or rewritten in any way, its evaluation graphs, and forward
    graphs of exporters. Everything that only training needs is removed: loss, labels, gradients. Batch norms use their
    running statistics, and Dropout lets everything through. A batch norm after a Conv, ConvTranspose, Gemm or MatMul
    with constant weights is folded into these in float64, if nothing else reads that op's result. The other inputs keep
    their names, types and shapes.

    A batch norm without running statistics is refused, since its result for a sample depends on the others. There is
    one
    exception: a module of PyTorch without them (track_running_stats=False) uses those of the batch in evaluation mode
    too, so it does here; a line in the log (logger "onnx_cbp") names these modules. Another line names anything else
    that computes over samples together and is no known batch norm; it stays as it is.

    Args:
        model: a model or its path; it is not changed.
        checkpoint: a `CheckpointState` of `onnx_cbp.training` or of ONNX Runtime, or the path of a checkpoint, with the
            values of the parameters, including running statistics. Values of the checkpoint replace those in the model.
        outputs: names of the values to keep as outputs. By default these are the values that feed the loss, and all
            outputs except losses, gradients and statistics; without a loss, all outputs except statistics.
        keep_batch_statistics: let batch norms without running statistics use those of the batch, whoever wrote the
            model.
        report: called with a summary.

    Returns:
        The model. It passes onnx.checker's full check, unless the model has inputs or outputs of unknown rank, which
        ONNX Runtime accepts and onnx.checker does not.

    Raises:
        OnnxCbpError: one line: the model or the checkpoint cannot be read; parameters are inputs and no checkpoint has
            them; the values that feed the loss are not found, or there is no value with a name in `outputs`; a batch
            norm has no running statistics; an op that the outputs need is not one of ONNX's, or gets bfloat16 in an
            opset in which it takes none.
    """
    source = read_model(model)
    result = to_ir(source)
    ours = ForgetTrainingPass()
    ours(result)
    InlineAllFunctionsPass()(result)
    values = CheckpointParameters.of(checkpoint)
    for identifier in [identifier for identifier in result.functions if identifier[0] == DOMAIN]:
        del result.functions[identifier]  # bodies of ops: the ops themselves are read
    RemoveUnusedFunctionsPass()(result)
    import_domain(result)
    drop_wrong_shapes(result)  # a size that is read from one would be written down
    infer_shapes(result)
    FoldConstantsPass()(result)  # computed axes would hide the shape of a reduction
    UnpackSequencesPass()(result)
    if InlineBranchesPass()(result).modified:  # ONNX Runtime refuses some with a constant condition
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
    if ToInferencePass()(result).modified:  # arithmetic that, until now, gradients also read
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
    refuse_taken_too_early(result)
    _complete(result)
    finished = to_proto(result, _without_training(source))
    restore_map_types(finished, source)
    write_axes(finished)  # onnx.checker would not accept it
    _check(finished)
    if report is not None:
        graph = finished.graph
        names = tuple(v.name for v in graph.input), tuple(v.name for v in graph.output)
        more = len(affine.into - fold.into)  # both may have found a part of the same batch norm
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
            continue  # this graph does not read it
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
    """Name the batch norms without running statistics; refuse them if they are not allowed."""
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
    """Name nodes that compute over samples together: they may be batch norms in an unknown form."""
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
        if node.domain == "" and node.op_type in RANDOM:  # any Dropout op lets everything through by now
            raise OnnxCbpError(
                f"node '{label(node)}' ({node.op_type}) makes the result random, as a dropout that an exporter has "
                "taken apart does: export the model in evaluation mode, or name other outputs with --output-name"
            )
        if node.domain in _NOT_ONNX:
            raise OnnxCbpError(
                f"node '{label(node)}' ({node.domain}.{node.op_type}) is none of ONNX's ops, and the outputs need it: "
                "name others with --output-name, or, if a session of ONNX Runtime wrote the model, start from the one "
                "that the session read"
            )


def _complete(model: ir.Model) -> None:
    """Give each value the type and shape that ONNX's inference finds, now that it knows every op."""
    for node in RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.type is None:
                value.shape = None  # a shape without a type is not valid
    infer_shapes(model)


def _without_training(source: onnx.ModelProto) -> onnx.ModelProto:
    """The parts of the source that `to_proto` needs, without its training info."""
    kept = onnx.ModelProto()
    kept.graph.sparse_initializer.extend(source.graph.sparse_initializer)
    return kept


def _check(model: onnx.ModelProto) -> None:
    """Check the model with ONNX's checker. The checker copies the model, so it gets one without large data."""
    ranks = all(value.type.tensor_type.HasField("shape") for value in (*model.graph.input, *model.graph.output))
    if not ranks or model.functions:  # onnx.checker does not support these: unknown ranks, functions of another opset
        check(model)
        return
    skeleton = _with_weights_as_inputs(model)
    with foreign("the model at inference is not valid ONNX"):
        try:
            onnx.checker.check_model(skeleton, full_check=True)
        except (ValueError, EncodeError):
            return  # still larger than one message: it could only be checked on disk


def _with_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model in which large initializers are inputs."""
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
