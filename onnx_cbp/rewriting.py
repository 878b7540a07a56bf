"""`inspect` lists the batch norms of a model; `rewrite` replaces them by our ops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from onnx_cbp.bfloat16 import taken_too_early
from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.custom_ops.schemas import register_schemas
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import (
    AttachFunctionsPass,
    BackwardSite,
    ChannelsLastPass,
    DropTrainingOutputsPass,
    DropZeroBiasPass,
    FoldReluPass,
    ForwardSite,
    FreezePass,
    Freezing,
    InferenceSite,
    InlineAllFunctionsPass,
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
    WriteEarlyPass,
    find_sites,
    label,
)
from onnx_cbp.graph_passes.core.batch_norms.layers import forwards
from onnx_cbp.graph_passes.core.batch_norms.naming import module_path
from onnx_cbp.graph_passes.core.sites import Rewritten, in_graph
from onnx_cbp.graph_passes.core.splice import is_used
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.wrong_shapes import drop_wrong_shapes
from onnx_cbp.graph_passes.dialects import is_cumulative, is_frozen_forward, is_rewritten_forward, rewritten_site
from onnx_cbp.graph_passes.distributing.mixing import refuse_mixing, refuse_sizes
from onnx_cbp.graph_passes.distributing.reduce_gradients import BUCKET_CAP_MB
from onnx_cbp.graph_passes.distributing.synchronize import group_of
from onnx_cbp.graph_passes.preparing.parameters.separate_merged import merged_with_statistics
from onnx_cbp.graph_passes.rewriting.replace_forward import is_parameter
from onnx_cbp.graph_passes.rewriting.running_statistics.convention import check_convention, running_variance_is_unbiased
from onnx_cbp.graph_passes.rewriting.running_statistics.momentum import Momenta, SetMomentumPass, extreme, stuck
from onnx_cbp.ir_models import ModelSource, read_model, to_ir, to_proto

_log = logging.getLogger("onnx_cbp")


@dataclass(frozen=True)
class Finding:
    """One batch norm of a model.

    Attributes:
        node: name of the node; if it has none, that of its first output.
        form: the form it has in the model.
        shape: shape of X as text; "?" if it is not known.
        rewritten: whether `rewrite` replaces it.
        explanation: what replaces it, or why nothing does.
        state: "rewritten", or if it is left alone: "frozen" (it normalises with running statistics), "done" (it is
            already rewritten) or "refused" (it cannot be rewritten).
        module: path of the PyTorch module from which it was exported, if the default exporter wrote it; else "".
        forward: for a gradient, the name of its forward node, if that is known; else "".
    """

    node: str
    form: str
    shape: str
    rewritten: bool
    explanation: str
    state: str
    module: str = ""
    forward: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready values; module and forward only if they are known."""
        return {name: value for name, value in asdict(self).items() if name not in ("module", "forward") or value}


def inspect(model: ModelSource) -> list[Finding]:
    """List every batch norm of a model, forward and backward, and what `rewrite` would do with it.

    Args:
        model: a model or its path; it is not changed.

    Raises:
        OnnxCbpError: the file cannot be read, or the model is not valid ONNX.
    """
    analysed = to_ir(read_model(model))
    InlineFunctionsPass()(analysed)
    return _findings(analysed, list(find_sites(analysed)))


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
    freeze: str | Sequence[str] = (),
    unbiased_running_var: bool = False,
    train: str | Sequence[str] = (),
    momentum: float | str | Mapping[str, float | str] | None = None,
    report: Callable[[list[Finding]], object] | None = None,
) -> onnx.ModelProto:
    """Replace every batch norm that trains by our ops, forward and backward; repair batch norms that do not load.

    It handles ONNX Runtime training artifacts (BatchNormInternal, BatchNormalizationGrad) and BatchNormalization with
    training_mode = 1. Value names and metadata stay, and running statistics are still updated. A batch norm in
    inference form loses its training outputs, with which no runtime loads it. A batch norm that cannot be rewritten
    stays, and a line in the log (logger "onnx_cbp") names it; `inspect` returns the same as data.

    Args:
        model: a model or its path; it is not changed.
        portable: attach the ops' function bodies, so that the model also runs without our library.
        one_pass: compute statistics and normalisation in one op, and both backward steps in one, with less memory
            traffic and fewer nodes. Without it there are separate ops, between which statistics can be synchronised.
        fold_relu: fold a Relu into the one-pass op before it, and its gradient into that op's, if nothing else reads
            the value in between. Only with one_pass; with portable, only the gradient is folded.
        recompute_relu: let the gradient of a folded Relu recompute which elements passed, instead of reading the Relu's
            result: a quarter less memory traffic. Only with fold_relu, and not with portable, since a runtime may
            compute function bodies differently forward and backward.
        synchronize: take batch statistics over several replicas (docs/distributed.md). True: over all of them. The name
            of a group: over its replicas ("size:4": 4 consecutive ones). Groups by pattern of names: only for these
            batch norms ("*" matches any text; the first pattern that fits decides). A name is that of a node, or the
            path of the PyTorch module that it is ("layer1.bn") or that contains it ("layer1"), if the default exporter
            wrote that. Each gets two collectives per step, and is computed in steps even with `one_pass`.
        data_parallel: for training artifacts: make the loss that of all replicas' samples, and sum every gradient of a
            parameter over all replicas before it is accumulated.
        bucket_cap_mb: the most megabytes (2^20 bytes) of gradients in one message of `data_parallel`.
        freeze: names of batch norms (patterns as in `synchronize`) that must not train: they normalise with their
            running statistics, which do not change, and their gradients follow from that. This changes what the model
            computes: ONNX Runtime's gradient builder makes a batch norm in inference form train, and this makes it
            frozen again.
        unbiased_running_var: update running variances in PyTorch's convention, with count / (count - 1) of the batch's
            variance (of the whole batch, if it is synchronised; a count of 1 gives the biased one, where PyTorch
            refuses). The default is ONNX's convention: the biased variance. Y and the gradients are the same.
        train: names (patterns as in `synchronize`; several in a list) of batch norms in inference form that must train.
            The graph keeps its outputs, so in a plain session nothing keeps their running statistics:
            `onnx_cbp.graph_passes.TrainBatchNormsPass` says what does.
        momentum: another momentum for the batch norms that train: the part of a running statistic that a step keeps
            (ONNX's; 1 minus PyTorch's), from 0 to 1. Or "cumulative": the average over all batches, like PyTorch's
            momentum=None, with a parameter or input that counts them ("bn.num_batches_tracked" next to
            "bn.running_mean"; docs/running_statistics.md). Or either by pattern of names, as in `synchronize`. None:
            the model's own, with a warning if that is 1 (no step moves the statistics) or 0 (each step replaces them).
        report: called with the findings of `inspect`, for callers who want both without analysing twice.

    Returns:
        The rewritten model; a copy of the model if there is nothing to rewrite.

    Raises:
        OnnxCbpError: the file cannot be read; the model is not valid ONNX; `portable` is set for an opset or a
            type that the bodies do not serve, or together with `synchronize` or `data_parallel`; a chosen batch norm
            cannot be synchronised or frozen, or cannot get another momentum; `unbiased_running_var` is set and a batch
            norm was rewritten without it; or `data_parallel` does not know the form of the loss or the gradients.
    """
    synchronization, freezing, momenta = Synchronization.of(synchronize), Freezing.of(freeze), Momenta.of(momentum)
    choices = _Choices(synchronization, freezing, momenta)
    if portable and (synchronization or data_parallel):
        name = "synchronize" if synchronization else "data_parallel"
        raise OnnxCbpError(
            f"portable and {name} exclude each other: without the library there is no communication, and the model "
            "must fail there and not train alone"
        )
    source = read_model(model)
    result = to_ir(source)
    # Samples that are mixed inside a function are visible only after inlining.
    follows_samples = synchronization.covers_all or data_parallel
    (InlineAllFunctionsPass(none_stays=True) if follows_samples else InlineFunctionsPass())(result)
    attach = portable or any(domain == DOMAIN for domain, *_ in result.functions)  # a portable model stays portable
    # Removes what no runtime accepts, whoever wrote it, so that the rewritten model is valid.
    repaired = drop_wrong_shapes(result) | DropZeroBiasPass(misshapen=True)(result).modified
    modified = bool(train) and TrainBatchNormsPass(train)(result).modified
    momenta.check(list(find_sites(result)))
    modified |= SetMomentumPass(momenta)(result).modified
    sites = list(find_sites(result))
    if report is not None:
        report(_findings(result, sites, choices))
    freezing.check(sites)
    synchronization.check(sites)
    if synchronization.covers_all:
        refuse_mixing(result, sites)
    elif data_parallel:
        refuse_sizes(result, sites)
    check_convention(sites, unbiased_running_var)
    for site in sites:
        if not _is_rewritten(site):
            _log.info("node '%s' (%s) is %s", label(site.node), site.form, _explain(site, choices))
    for line in stuck(sites, freezing, momenta):
        _log.warning("%s", line)
    passes: list[InPlacePass] = [
        DropTrainingOutputsPass(),
        FreezePass(freezing),
        ReplaceForwardPass(
            one_pass=one_pass,
            synchronization=synchronization,
            unbiased_running_var=unbiased_running_var,
            cumulative=momenta.is_cumulative,
        ),
        ReplaceBackwardPass(one_pass=one_pass),
        ChannelsLastPass(),
    ]
    if one_pass and fold_relu:
        passes.append(FoldReluPass(forward=not attach))
        if recompute_relu and not attach:
            passes.append(RecomputeReluPass())
    if data_parallel:
        passes += [WholeBatchLossPass(), ReduceGradientsPass(bucket_cap_mb)]
    passes.append(WriteEarlyPass())
    if attach:
        passes.append(AttachFunctionsPass())
    for step in passes:  # not a Sequential, which would bury our one-line errors in its own
        modified |= step(result).modified
    if data_parallel or not any(_is_rewritten(site) for site in sites):
        _tell(result, modified)
    invalid = taken_too_early(result)
    if invalid is not None:
        _log.warning("%s", invalid)
    if not (modified or repaired):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    register_schemas()
    return to_proto(result, source)


def _tell(result: ir.Model, modified: bool) -> None:
    """Log what a rewrite did that is not a line about one batch norm."""
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


@dataclass(frozen=True)
class _Choices:
    """What a rewrite does with which batch norms."""

    synchronization: Synchronization = Synchronization({})  # noqa: RUF009 - it is immutable
    freezing: Freezing = Freezing()  # noqa: RUF009
    momenta: Momenta = Momenta({})  # noqa: RUF009


def _findings(model: ir.Model, sites: list[Site], choices: _Choices | None = None) -> list[Finding]:
    types = Types(model)
    of = forwards(sites)
    return [_finding(site, _shape(site, types), choices or _Choices(), of.get(site.node)) for site in sites]


def _shape(site: Site, types: Types) -> str | None:
    """The shape of X as text; None if it is not known."""
    first = next(iter(site.node.inputs), None)  # the first input is X in every form
    X = first if isinstance(site, LeftAlone) else site.X
    shape = None if X is None else types.shape(X)
    return None if shape is None else str(ir.Shape(shape))


def _finding(site: Site, shape: str | None, choices: _Choices, forward: ir.Node | None) -> Finding:
    return Finding(
        node=label(site.node),
        form=site.form,
        shape=shape or "?",
        rewritten=_is_rewritten(site),
        explanation=_explain(site, choices) + _merging(site),
        state=_state(site),
        module=module_path(site.node),
        forward="" if forward is None else label(forward),
    )


def _is_rewritten(site: Site) -> bool:
    repaired = isinstance(site, InferenceSite) and bool(site.superfluous)
    return repaired or isinstance(site, ForwardSite | BackwardSite)


def _state(site: Site) -> str:
    if _is_rewritten(site):
        return "rewritten"
    if isinstance(site, LeftAlone):
        return "done" if isinstance(site, Rewritten) else "refused"
    return "frozen"


def _explain(site: Site, choices: _Choices) -> str:
    if isinstance(site, LeftAlone):
        group = group_of(site.node)
        unbiased = ", with an unbiased running variance" if running_variance_is_unbiased(site.node) else ""
        together = f", synchronized in group '{group}'" if group else ""
        return f"left alone: {site.reason}{unbiased}{together}{_momentum_of_ours(site.node)}"
    if isinstance(site, InferenceSite) and site.superfluous:
        number = len(site.superfluous)
        outputs = "1 superfluous output is" if number == 1 else f"{number} superfluous outputs are"
        return f"loads nowhere: {outputs} dropped"
    if isinstance(site, InferenceSite):
        return (
            "left alone: it normalises with running statistics, so it is frozen; "
            f"--train '{label(site.node)}' makes it train"
            + (f", but its {meaning}" if (meaning := extreme(site.momentum)) else "")
        )
    if choices.freezing.chooses(site):
        if isinstance(site, BackwardSite):
            return "frozen: gradients with the running statistics as constants, by onnx_cbp ops"
        return "frozen: normalised with its running statistics, which stay as they are, by onnx_cbp ops"
    if isinstance(site, BackwardSite):
        return "gradients by onnx_cbp ops" + ("" if site.dX is not None else "; nothing asks for that of the input")
    group = choices.synchronization.group(site)
    over = "" if group is None else f", over all replicas of group '{group}'"
    statistics = _running_statistics(site) + _momentum(site, choices)
    return f"batch statistics and normalisation by onnx_cbp ops{over}; {statistics}"


def _momentum(site: ForwardSite, choices: _Choices) -> str:
    """What to say about a momentum, after the running statistics; "" for a usual one."""
    if site.running_mean is None:
        return ""
    if choices.momenta.is_cumulative(site.node):
        return ", as the average over all batches"
    meaning = extreme(site.momentum)
    return f"; {meaning}" if meaning else ""


def _momentum_of_ours(node: ir.Node) -> str:
    """The same for a batch norm that is already rewritten."""
    if not is_rewritten_forward(node) or is_frozen_forward(node) or (read := rewritten_site(node)) is None:
        return ""
    if is_cumulative(node):
        return ", with running statistics that are the average over all batches"
    meaning = extreme(read[0].momentum)
    return f"; {meaning}" if meaning else ""


def _merging(site: Site) -> str:
    """What to say about parameters that an exporter merged with running statistics."""
    if not isinstance(site, ForwardSite | InferenceSite):
        return ""
    names = [merged_with_statistics(in_graph(value)) for value in (site.scale, site.B)]
    found = [f"'{name}'" for name in dict.fromkeys(names) if name]
    if not found:
        return ""
    return (
        f"; equal parameters and running statistics are merged into {' and '.join(found)}: generate_artifacts takes "
        "them apart, and optimize=False exports them as they are"
    )


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
