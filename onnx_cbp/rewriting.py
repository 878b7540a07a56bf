"""The front door of the graph passes: what a model's batch norms are, and the model with channel ops in their place."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.custom_ops.schemas import register_schemas
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import (
    AttachFunctionsPass,
    BackwardSite,
    ChannelsLastPass,
    FoldReluPass,
    ForwardSite,
    InferenceSite,
    InlineFunctionsPass,
    LeftAlone,
    RecomputeReluPass,
    ReduceGradientsPass,
    ReplaceBackwardPass,
    ReplaceForwardPass,
    Site,
    Synchronization,
    TrainBatchNormsPass,
    WholeBatchLossPass,
    find_sites,
    label,
)
from onnx_cbp.graph_passes.reduce_gradients import BUCKET_CAP_MB
from onnx_cbp.graph_passes.replace_forward import is_parameter
from onnx_cbp.graph_passes.splice import is_used
from onnx_cbp.graph_passes.synchronize import group_of
from onnx_cbp.graph_passes.types import Types
from onnx_cbp.model_io import load_model

_log = logging.getLogger("onnx_cbp")

ModelSource = onnx.ModelProto | str | os.PathLike[str]


@dataclass(frozen=True)
class Finding:
    """One batch norm of a model.

    Attributes:
        node: name of the node (of its first output, where it has none).
        form: the form it has in the model.
        shape: shape of X as text, "?" where it is not known.
        rewritten: whether `rewrite` replaces it.
        explanation: what replaces it, or why nothing does.
    """

    node: str
    form: str
    shape: str
    rewritten: bool
    explanation: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready values."""
        return asdict(self)


def inspect(model: ModelSource) -> list[Finding]:
    """Every batch norm of a model, forward and backward, and what `rewrite` would do with it.

    Args:
        model: a model or the path of one; it is not changed.

    Raises:
        OnnxCbpError: the file cannot be read, or the model is not valid ONNX.
    """
    analysed = _to_ir(_read(model))
    InlineFunctionsPass()(analysed)
    return _findings(analysed, list(find_sites(analysed)), Synchronization({}))


def rewrite(
    model: ModelSource,
    *,
    portable: bool = False,
    one_pass: bool = True,
    fold_relu: bool = True,
    recompute_relu: bool = True,
    synchronize: bool | str | Mapping[str, str] = False,
    data_parallel: bool = False,
    bucket_cap_mb: float = BUCKET_CAP_MB,
    train: str | Sequence[str] = (),
    report: Callable[[list[Finding]], object] | None = None,
) -> onnx.ModelProto:
    """Put channel ops in the place of every batch norm that trains, forward and backward.

    Handles ONNX Runtime training artifacts (BatchNormInternal, BatchNormalizationGrad) and BatchNormalization with
    training_mode = 1. Value names and metadata stay; running statistics go on being updated. A batch norm that cannot
    be rewritten is left as it is and named in a log line (logger "onnx_cbp"); `inspect` says the same as data.

    Args:
        model: a model or the path of one; it is not changed.
        portable: attach the ops' function bodies, so that the model also runs where no library of ours is.
        one_pass: do statistics and normalisation in one op, and the two backward steps in one, with less memory traffic
            and fewer nodes. Without it they are the ops that statistics can be synchronised between.
        fold_relu: fold a Relu into the one-pass op before it, and its gradient into that op's, where nothing else reads
            the value in between. Only with one_pass.
        recompute_relu: let the gradient of a folded Relu compute once more which elements passed, instead of reading
            the Relu's result: a quarter less memory traffic. Only with fold_relu, and not with portable, since a
            runtime may compute function bodies forward and backward in different ways.
        synchronize: take batch statistics over several replicas (docs/distributed.md). True: over all of them; the name
            of a group: among its replicas ("size:4": 4 consecutive ones); groups by pattern of node names ("*" matches
            any text; the first pattern that fits a name decides): for those batch norms, and no others. Each gets two
            collectives a step, and is done in steps whatever `one_pass` says.
        data_parallel: of training artifacts: make the loss that of all replicas' samples, and sum every gradient of a
            parameter over all replicas before it is accumulated.
        bucket_cap_mb: megabytes (2^20 bytes) of gradients that one message of `data_parallel` holds at most.
        train: names of nodes ("*" matches any text; several in a list): batch norms in inference form with these names
            are made to train. The graph's outputs stay, so nothing keeps their running statistics in a plain session:
            `onnx_cbp.graph_passes.TrainBatchNormsPass` says who does.
        report: called with what `inspect` says of the model, for whoever wants both and not the analysis twice.

    Returns:
        The rewritten model; a copy of the model where there is nothing to rewrite.

    Raises:
        OnnxCbpError: the file cannot be read, the model is not valid ONNX, `portable` is asked of an opset that the
            bodies do not serve or together with `synchronize` or `data_parallel`, a batch norm that is to be
            synchronised cannot be, or the loss or the gradients are none that `data_parallel` knows.
    """
    synchronization = Synchronization.of(synchronize)
    if portable and (synchronization or data_parallel):
        name = "synchronize" if synchronization else "data_parallel"
        raise OnnxCbpError(
            f"portable and {name} exclude each other: without the library there is no communication, and the model "
            "must fail there and not train alone"
        )
    source = _read(model)
    result = _to_ir(source)
    InlineFunctionsPass()(result)
    modified = bool(train) and TrainBatchNormsPass(train)(result).modified
    sites = list(find_sites(result))
    if report is not None:
        report(_findings(result, sites, synchronization))
    synchronization.check(sites)
    for site in sites:
        if not isinstance(site, ForwardSite | BackwardSite):
            _log.info("node '%s' (%s) is %s", label(site.node), site.form, _explain(site, synchronization))
    passes: list[InPlacePass] = [
        ReplaceForwardPass(one_pass=one_pass, synchronization=synchronization),
        ReplaceBackwardPass(one_pass=one_pass),
        ChannelsLastPass(),
    ]
    if one_pass and fold_relu:
        passes.append(FoldReluPass())
        if recompute_relu and not portable:
            passes.append(RecomputeReluPass())
    if data_parallel:
        passes += [WholeBatchLossPass(), ReduceGradientsPass(bucket_cap_mb)]
    if portable:
        passes.append(AttachFunctionsPass())
    for step in passes:  # not a Sequential: that would bury our one-line errors in its own
        modified |= step(result).modified
    if data_parallel or not any(isinstance(site, ForwardSite | BackwardSite) for site in sites):
        _tell(result, modified)
    if not modified:
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    register_schemas()
    return _to_proto(result, source)


def _tell(result: ir.Model, modified: bool) -> None:
    """Say in the log what a rewrite did where that is not one line a batch norm."""
    if not modified:
        done = any(node.domain == DOMAIN for node in result.graph)
        _log.warning("nothing to rewrite: %s", "it is done" if done else "the model has no batch norm that trains")
        return
    for node in result.graph:
        if (node.domain, node.op_type) == (DOMAIN, "AllReduceBucket"):
            size = node.outputs[0].shape
            _log.info("one message a step of %s values: %s", "?" if size is None else size[0], _layer(node))


def _layer(node: ir.Node) -> str:
    return node.attributes["layer"].as_string()


def _read(model: ModelSource) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else load_model(model)


def _to_ir(model: onnx.ModelProto) -> ir.Model:
    _refuse_sparse_subgraphs(model.graph)
    serde = logging.getLogger("onnx_ir.serde")
    disabled, serde.disabled = serde.disabled, True  # it does not know sparse initializers, and says so of each use
    try:
        return ir.from_proto(model)
    except Exception as error:  # onnx-ir wraps whatever it meets
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())
        raise OnnxCbpError(f"the model is not valid ONNX: {reason}") from error
    finally:
        serde.disabled = disabled


def _refuse_sparse_subgraphs(graph: onnx.GraphProto) -> None:
    """Raise for what onnx-ir would lose: a sparse initializer anywhere but in the main graph."""
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                if subgraph.sparse_initializer:
                    name = subgraph.sparse_initializer[0].values.name
                    raise OnnxCbpError(
                        f"node '{node.name or node.output[0]}' has a subgraph with the sparse initializer '{name}', "
                        "which a rewrite cannot keep: make it dense"
                    )
                _refuse_sparse_subgraphs(subgraph)


def _to_proto(result: ir.Model, source: onnx.ModelProto) -> onnx.ModelProto:
    try:
        model = ir.to_proto(result)
    except Exception as error:  # onnx-ir wraps whatever it meets
        raise OnnxCbpError(f"the model is not valid ONNX: {' '.join(str(error).split())}") from error
    # onnx-ir does not carry these two; a rewrite never touches what they hold.
    model.training_info.extend(source.training_info)
    model.graph.sparse_initializer.extend(source.graph.sparse_initializer)
    return model


def _findings(model: ir.Model, sites: list[Site], synchronization: Synchronization) -> list[Finding]:
    types = Types(model)
    return [_finding(site, _shape(site, types), synchronization) for site in sites]


def _shape(site: Site, types: Types) -> str | None:
    """The shape of X as text; None where it is not known."""
    first = next(iter(site.node.inputs), None)  # of batch norms in every form, X
    X = first if isinstance(site, LeftAlone) else site.X
    shape = None if X is None else types.shape(X)
    return None if shape is None else str(ir.Shape(shape))


def _finding(site: Site, shape: str | None, synchronization: Synchronization) -> Finding:
    return Finding(
        node=label(site.node),
        form=site.form,
        shape=shape or "?",
        rewritten=isinstance(site, ForwardSite | BackwardSite),
        explanation=_explain(site, synchronization),
    )


def _explain(site: Site, synchronization: Synchronization) -> str:
    if isinstance(site, LeftAlone):
        group = group_of(site.node)
        return f"left alone: {site.reason}" + (f", synchronized in group '{group}'" if group else "")
    if isinstance(site, InferenceSite):
        return (
            "left alone: it normalises with running statistics, so it is frozen; "
            f"--train '{label(site.node)}' makes it train"
        )
    if isinstance(site, BackwardSite):
        return "gradients by onnx_cbp ops" + ("" if site.dX is not None else "; nothing asks for that of the input")
    group = synchronization.group(site)
    over = "" if group is None else f", over all replicas of group '{group}'"
    return f"batch statistics and normalisation by onnx_cbp ops{over}; {_running_statistics(site)}"


def _running_statistics(site: ForwardSite) -> str:
    running = site.running_mean
    if running is None:
        return "it has no running statistics"
    if site.updates_in_place and is_parameter(running):
        return "running statistics are updated in place"
    if is_used(site.updated_mean) or is_used(site.updated_var):
        return "running statistics go on being outputs"
    if site.updates_in_place:
        return (
            f"running statistics '{running.name}' are constants of the graph, so no step can keep them: "
            "name them in frozen_params when you generate the artifacts"
        )
    return "running statistics are not outputs of the graph, so nothing keeps them"
