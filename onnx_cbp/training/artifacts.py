"""`generate_artifacts`: makes training artifacts, by our builder or ONNX Runtime's."""

from __future__ import annotations

import glob
import importlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnx_cbp.bfloat16 import refuse_taken_too_early
from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.custom_ops.gradients import GRADIENTS, register_gradients
from onnx_cbp.custom_ops.library import get_library_path
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import (
    CompleteGradientsPass,
    DropTrainingOutputsPass,
    ForwardSite,
    InferenceSite,
    InlineAllFunctionsPass,
    Site,
    SpellOutPass,
    SplitSquaresPass,
    WriteRunningStatsPass,
    find_sites,
    label,
)
from onnx_cbp.graph_passes.core.batch_norms.naming import NAME_SCOPES
from onnx_cbp.graph_passes.core.own_initializer import own_initializer
from onnx_cbp.graph_passes.core.remove_unused_nodes import RemoveUnusedNodesPass
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import Names, origin
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.core.wrong_shapes import drop_wrong_shapes
from onnx_cbp.graph_passes.dialects import is_cumulative, running_statistics
from onnx_cbp.graph_passes.preparing.parameters.add_counters import AddCountersPass, remove_readers
from onnx_cbp.graph_passes.rewriting.modes.freeze import Freezing
from onnx_cbp.graph_passes.rewriting.running_statistics.momentum import Momenta
from onnx_cbp.ir_models import ModelSource, read_model, to_ir, to_proto
from onnx_cbp.model_files.files import put_all
from onnx_cbp.model_files.model_io import fits_one_message, load_model, save_model
from onnx_cbp.rewriting import rewrite
from onnx_cbp.training.arguments import (
    check_outputs,
    check_parameters,
    member,
    names_of,
    patterns_of,
    rewrite_options_of,
)
from onnx_cbp.training.builders.ort import build
from onnx_cbp.training.builders.own import Made, Wanted, make
from onnx_cbp.training.builders.telling import tell_stops, tell_what_does_not_train
from onnx_cbp.training.choices import LossType, OptimType, builder_of, loss_of, named, optimizer_of
from onnx_cbp.training.runtime import direct_convs_pay, has_training_build, load_artifacts

__all__ = ["LossType", "OptimType", "generate_artifacts"]
from onnx_cbp.training.suiting import suit_builder
from onnx_cbp.training.taking_apart import take_apart

_log = logging.getLogger("onnx_cbp")


def generate_artifacts(
    model: ModelSource,
    requires_grad: list[str] | None = None,
    frozen_params: list[str] | None = None,
    loss: Any = None,
    optimizer: Any = None,
    artifact_directory: str | bytes | os.PathLike[str] | None = None,
    prefix: str = "",
    ort_format: bool = False,
    custom_op_library: str | bytes | os.PathLike[str] | None = None,
    additional_output_names: list[str] | None = None,
    nominal_checkpoint: bool = False,
    loss_input_names: list[str] | None = None,
    *,
    train_batch_norms: str | Sequence[str] | None = None,
    tied_params: str | Sequence[str] | None = None,
    rewrite_options: Mapping[str, Any] | None = None,
    builder: str | None = None,
    direct_convs: bool | None = None,
) -> None:
    """Make training artifacts, like `onnxruntime.training.artifacts.generate_artifacts`: same arguments, same files.

    There are two builders. "onnx_cbp" is ours: it runs on any onnxruntime, and its artifacts train there too, with
    `onnx_cbp.training.api`. "onnxruntime" is that of ONNX Runtime's training build, and only that build runs its
    artifacts.

    Differences from ONNX Runtime's own function:
        - A batch norm in inference form (`bn.eval()` in a model that trains) is frozen: it normalises with its running
          statistics, which do not change, and its gradients follow from that. ONNX Runtime's own makes it train.
        - If the graph computes the mean and variance of one in inference form, it trains if these are those of its
          batch; otherwise it becomes arithmetic. In both cases gradients pass the statistics.
        - A batch norm in training form trains, with the ops of `onnx_cbp.rewrite`. Its running statistics are frozen
          parameters of the checkpoint, even if `frozen_params` does not name them: no step could keep constants.
        - The evaluation model is in pure ONNX and loads.
        - `loss` and `optimizer` may be ONNX Runtime's names ("CrossEntropyLoss", "AdamW").
        - If anything fails, nothing is written.
        - With our builder, all weights of the model train if `requires_grad` names none.

    PyTorch is not needed. A session that runs the training model needs `onnx_cbp.register(session_options)`;
    `onnx_cbp.training.api` does this itself.

    Args:
        model: the forward graph, or its path; it is not changed.
        requires_grad: the parameters that are trained.
        frozen_params: parameters of the checkpoint that are not trained.
        loss: a `LossType` or its name. With our builder also one of `onnx_cbp.training.losses`, or the name of an
            output that is the loss; with ONNX Runtime's also an `onnxblock.Block`. None: the graph's first output.
        optimizer: an `OptimType` or its name ("Adam" too, with our builder). With our builder also one of
            `onnx_cbp.training.optimizers`, with ONNX Runtime's an `onnxblock.Block`. None: no optimiser's graph.
        artifact_directory: the folder for the files; None: the current one.
        prefix: the beginning of the files' names.
        ort_format: also write the graphs in the ORT format; only with ONNX Runtime's builder, and not together with
            `custom_op_library`.
        custom_op_library: a library with ops of the graph.
        additional_output_names: values that become outputs, after the loss.
        nominal_checkpoint: also write a checkpoint without the parameters' values.
        loss_input_names: what the loss reads instead of the graph's outputs.
        train_batch_norms: names of batch norms in inference form (patterns as in `rewrite`'s `synchronize`) that must
            train nevertheless; exporters that drop the training mode write them so. None: none, and if all batch norms
            of the model have that form, a warning (logger "onnx_cbp") names them. An empty list: none.
        tied_params: names (patterns) of parameters that several modules share on purpose. PyTorch's default exporter
            merges equal ones of up to 1,024 elements. If a model does not tell these from tied weights, everything that
            is not named here was merged, and is separated. An empty list: nothing is tied. None: that is an error.
        rewrite_options: options of `onnx_cbp.rewrite` for the training model, such as `synchronize`, `data_parallel`
            and `momentum`.
        builder: "onnx_cbp" or "onnxruntime". The default is ONNX Runtime's if its training build is installed, unless
            the loss or the optimiser is one of ours; otherwise ours.
        direct_convs: with our builder, let convolutions of one group and small windows be our ops (DirectConv,
            DirectConvExchanged, ConvGradWeight), where measurements showed that they are faster than ONNX Runtime's.
            They are for processors: on a GPU they would run on copies. None: if this machine has AVX2 and its
            onnxruntime no CUDA provider. Not with `portable`.

    Raises:
        OnnxCbpError: one line: ONNX Runtime's builder has no training build, the model is not valid, a name means
            nothing, a folder is not there, a running statistic should have a gradient, or an error of ONNX Runtime's
            own function.
    """
    if builder_of(builder, loss, optimizer, has_training_build=has_training_build()) == "onnx_cbp":
        if ort_format:
            raise OnnxCbpError(
                "ort_format: what builder='onnx_cbp' makes is in ONNX files, which every onnxruntime loads: leave it "
                "out, or use builder='onnxruntime'"
            )
        wanted = Wanted(
            requires_grad=None if requires_grad is None else names_of(requires_grad, "requires_grad", of="parameters"),
            frozen_params=names_of(frozen_params, "frozen_params", of="parameters"),
            loss=loss_of(loss),
            optimizer=optimizer_of(optimizer),
            outputs=names_of(additional_output_names, "additional_output_names", of="values"),
            loss_inputs=names_of(loss_input_names, "loss_input_names", of="outputs"),
            train_batch_norms=patterns_of(train_batch_norms),
            tied_params=patterns_of(tied_params, "tied_params", of="parameters"),
            rewrite_options=rewrite_options_of(rewrite_options),
            direct_convs=direct_convs_pay() if direct_convs is None else direct_convs,
        )
        _write(make(read_model(model), wanted), _folder(artifact_directory), prefix, nominal=nominal_checkpoint)
        return
    artifacts = load_artifacts()
    loss, optimizer = named(loss), named(optimizer)
    if ort_format and custom_op_library is not None:
        raise OnnxCbpError(
            "ort_format and custom_op_library exclude each other: ONNX Runtime's converter takes one library of ops, "
            "and onnx-cbp's is one: use the ONNX files"
        )
    folder = _folder(artifact_directory)
    block = importlib.import_module("onnxruntime.training.onnxblock").Block
    loss = member(loss, artifacts.LossType, "loss", block)
    optimizer = member(optimizer, artifacts.OptimType, "optimizer", block)
    trained = names_of(requires_grad, "requires_grad", of="parameters")
    frozen = names_of(frozen_params, "frozen_params", of="parameters")
    if optimizer is not None and not trained:
        raise OnnxCbpError("requires_grad names nothing that an optimizer could train: name the model's parameters")
    more_outputs = names_of(additional_output_names, "additional_output_names", of="values")
    loss_inputs = names_of(loss_input_names, "loss_input_names", of="outputs")
    _check_prefix(prefix)
    patterns = patterns_of(train_batch_norms)
    tied = patterns_of(tied_params, "tied_params", of="parameters")
    options = rewrite_options_of(rewrite_options)
    source = read_model(model)
    forward = to_ir(source)
    InlineAllFunctionsPass()(forward)
    drop_wrong_shapes(forward)
    refuse_taken_too_early(forward, but_batch_norms=True)
    if trained:
        check_outputs(forward, loss, loss_inputs, more_outputs)
    wanted_names, frozen = take_apart(forward, trained, frozen, tied)
    trained = wanted_names or []
    prepared = _prepare(forward, source, patterns, trained, frozen, options)
    if prepared.ours:
        if custom_op_library is not None and Path(os.fsdecode(custom_op_library)) != Path(get_library_path()):
            raise OnnxCbpError(
                f"custom_op_library: the graph has ops of onnx-cbp ('{prepared.ours}'), and ONNX Runtime's gradient "
                "builder takes one library: generate from the model that it was rewritten from"
            )
        custom_op_library = get_library_path()
        register_gradients()
    # In the same folder, so that a finished file is moved to its place in one step.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx_cbp_") as work:
        done = Path(work) / "artifacts"
        done.mkdir()
        build(
            artifacts,
            _hand_over(prepared.model, model, artifacts.USE_PATH_THRESHOLD, Path(work)),
            requires_grad=trained,
            frozen_params=list(dict.fromkeys([*frozen, *prepared.statistics, *prepared.constants])),
            loss=loss,
            optimizer=optimizer,
            artifact_directory=str(done),
            prefix=prefix,
            custom_op_library=custom_op_library,
            additional_output_names=more_outputs or None,
            nominal_checkpoint=nominal_checkpoint,
            loss_input_names=loss_inputs or None,
        )
        _repair_training_model(done / f"{prefix}training_model.onnx", prepared, options)
        _repair_eval_model(done / f"{prefix}eval_model.onnx", prepared)
        if ort_format:
            _convert(artifacts, done)
        _put_all(done, folder)


def _check_prefix(prefix: Any) -> None:
    """Refuse what no name of a file begins with."""
    if not isinstance(prefix, str):
        raise OnnxCbpError(f"prefix: {prefix!r} is no text: give what the names of the files begin with")
    if prefix and Path(prefix).name != prefix:
        raise OnnxCbpError(f"prefix: '{prefix}' names a folder: give that as artifact_directory")


def _write(made: Made, folder: Path, prefix: str, *, nominal: bool) -> None:
    """Write all files, or none: each is moved to its place when all are finished."""
    _check_prefix(prefix)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx_cbp_") as work:
        done = Path(work) / "artifacts"
        done.mkdir()
        made.write(done, prefix, nominal=nominal)
        _put_all(done, folder)


def _put_all(done: Path, folder: Path) -> None:
    """Move finished files to their folder; data files first, since nothing names them yet."""
    replaced = done.parent / "replaced"
    replaced.mkdir()
    put_all(sorted(done.iterdir(), key=lambda file: (file.suffix != ".data", file.name)), folder, replaced)


@dataclass(frozen=True)
class _Prepared:
    """A forward graph for ONNX Runtime's gradient builder, and everything that the builder will lose.

    Attributes:
        model: the graph; its model-local functions are inlined, as the builder does.
        frozen: the names of the results of the batch norms in inference form.
        training: how many others there are.
        statistics: the initializers that are running statistics of the others.
        constants: the scales and biases that are not trained and are no parameters.
        ours: the first node that is an op of ours, in a graph that was rewritten before; "" if there is none.
        modules: by the name of a batch norm's result, what the exporter recorded about its modules.
        counters: the initializers that count batches.
    """

    model: onnx.ModelProto
    frozen: frozenset[str]
    training: int
    statistics: tuple[str, ...]
    constants: tuple[str, ...]
    ours: str
    modules: Mapping[str, str]
    counters: list[str]


def _folder(directory: str | bytes | os.PathLike[str] | None) -> Path:
    """The folder for the files.

    Raises:
        OnnxCbpError: it is no folder, or not there.
    """
    if not isinstance(directory, str | bytes | os.PathLike | None):
        raise OnnxCbpError(f"artifact_directory: {directory!r} is no folder: give the path of one")
    folder = Path(os.fsdecode(directory)) if directory is not None else Path.cwd()
    if not folder.is_dir():
        raise OnnxCbpError(f"artifact_directory: '{folder}' {'is a file' if folder.exists() else 'does not exist'}")
    return folder


def _prepare(
    model: ir.Model,
    source: onnx.ModelProto,
    train_batch_norms: Sequence[str] | None,
    trained: Sequence[str],
    frozen: Sequence[str],
    options: Mapping[str, Any],
) -> _Prepared:
    tell_what_does_not_train(list(find_sites(model)), train_batch_norms)
    tell_stops(model, are_kept=False)
    if train_batch_norms:
        from onnx_cbp.graph_passes.rewriting.modes.train_batch_norms import TrainBatchNormsPass

        TrainBatchNormsPass(train_batch_norms)(model)
    DropTrainingOutputsPass()(model)
    suit_builder(model, trained, frozen)
    SpellOutPass(trained)(model)
    SplitSquaresPass()(model)
    sites = list(find_sites(model))
    ours = [node for node in all_nodes(model) if node.domain == DOMAIN]
    _name(
        [*(site.node for site in sites), *(node for node in ours if node not in {s.node for s in sites})], Names(model)
    )
    _check_gradients(ours)
    training = [site for site in sites if isinstance(site, ForwardSite)]
    constants = Constants(model)
    given = [v for site in training for v in (site.running_mean, site.running_var) if v]
    running = [own_initializer(value, model, constants) for value in given]
    statistics = dict.fromkeys(value.name or "" for value in running if value.is_initializer())
    updated = [value for node in ours for _, value in running_statistics(node) if value.is_initializer()]
    statistics.update(dict.fromkeys(value.name or "" for value in updated))
    check_parameters(model, sites, trained, frozen, statistics)
    momenta = Momenta.of(options.get("momentum"))
    momenta.check(sites)
    counters = AddCountersPass(momenta, Freezing.of(options.get("freeze", ())), read=True)
    counters(model)
    statistics.update(dict.fromkeys(counters.names))
    more = [name for name in statistics if name not in frozen]
    if more:
        _log.info("frozen_params: running statistics that steps update are parameters too: %s", ", ".join(more))
    return _Prepared(
        to_proto(model, source),
        frozenset(site.Y.name or "" for site in sites if isinstance(site, InferenceSite)),
        len(training),
        tuple(statistics),
        tuple(_constants(sites, trained)),
        label(ours[0]) if ours else "",
        {
            site.Y.name or "": site.node.metadata_props[NAME_SCOPES]
            for site in sites
            if isinstance(site, ForwardSite | InferenceSite) and NAME_SCOPES in site.node.metadata_props
        },
        counters.names,
    )


def _constants(sites: Sequence[Site], trained: Sequence[str]) -> Iterator[str]:
    """The initializers that are the scale or bias of a batch norm, and not trained."""
    for site in sites:
        if isinstance(site, ForwardSite | InferenceSite):
            for value in (site.scale, site.B):
                if value.is_initializer() and not value.is_graph_input() and value.name not in trained:
                    yield value.name or ""


def _check_gradients(ours: Sequence[ir.Node]) -> None:
    """Refuse ops that would get no gradient or a wrong one, and averages that nothing would keep."""
    for node in ours:
        if is_cumulative(node):
            raise OnnxCbpError(
                f"node '{label(node)}' ({DOMAIN}.{node.op_type}) averages all batches by outputs of the graph: make "
                "the artifacts from the model that it was rewritten from, with {'momentum': 'cumulative'} among "
                "rewrite_options"
            )
        made = node.op_type == "ChannelNormalize" and any(v is not None and origin(v) for v in node.inputs[3:5])
        if node.op_type not in GRADIENTS or made:
            raise OnnxCbpError(
                f"node '{label(node)}' ({DOMAIN}.{node.op_type}) has no gradient that can be built: generate the "
                "artifacts from the model that it was rewritten from"
            )


def _name(nodes: Sequence[ir.Node], names: Names) -> None:
    """Give each node a unique name: the builder derives its names from these, and `rewrite` freezes by name."""
    seen: set[str] = set()
    for node in nodes:
        if not node.name or node.name in seen:
            node.name = names.fresh(label(node))
        seen.add(node.name)


def _hand_over(prepared: onnx.ModelProto, given: ModelSource, limit: int, folder: Path) -> onnx.ModelProto | str:
    """The model as ONNX Runtime accepts it: above its limit only as a file, with separate weights."""
    if isinstance(given, onnx.ModelProto) or fits_one_message(prepared, limit):
        return prepared
    path = str(folder / "model.onnx")
    save_model(prepared, path, largest=limit)
    return path


def _repair_training_model(path: Path, prepared: _Prepared, options: dict[str, Any]) -> None:
    """Freeze batch norms that were in inference form, which the builder lets train, and rewrite the rest."""
    source = load_model(path)
    model = to_ir(source)
    sites = [site for site in find_sites(model) if isinstance(site, ForwardSite)]
    frozen = [label(site.node) for site in sites if site.Y.name in prepared.frozen]
    if len(sites) - len(frozen) > prepared.training:
        unknown = next(site for site in sites if site.Y.name not in prepared.frozen)
        raise OnnxCbpError(
            f"node '{label(unknown.node)}': ONNX Runtime's gradient builder renamed its result '{unknown.Y.name}', so "
            "whether it is frozen is not known: give the graph's values names of their own"
        )
    for site in sites:
        modules = prepared.modules.get(site.Y.name or "")
        if modules is not None:  # the builder drops metadata, but options may name modules
            site.node.metadata_props[NAME_SCOPES] = modules
    if prepared.ours:
        CompleteGradientsPass()(model)
        WriteRunningStatsPass()(model)
    remove_readers(model, prepared.counters)
    if prepared.ours or prepared.modules or prepared.counters:
        source = to_proto(model, source)
    more = options.pop("freeze", ())
    freeze = [*(glob.escape(name) for name in frozen), *((more,) if isinstance(more, str) else more)]
    save_model(rewrite(source, freeze=freeze, **options), path)


def _repair_eval_model(path: Path, prepared: _Prepared) -> None:
    """Remove everything of training: no runtime loads what ONNX Runtime leaves of it."""
    source = load_model(path)
    model = to_ir(source)
    modified = DropTrainingOutputsPass(evaluation=True)(model).modified
    if prepared.counters:  # evaluation counts nothing, but they stay inputs, since its API feeds all parameters
        remove_readers(model, prepared.counters)
        modified = True
    if prepared.ours:
        from onnx_cbp.graph_passes.finalizing.to_inference import ToInferencePass

        modified |= ToInferencePass()(model).modified
        RemoveUnusedNodesPass()(model)  # an evaluation model writes nothing in place
    if modified:
        save_model(to_proto(model, source), path)


def _convert(artifacts: Any, folder: Path) -> None:
    """Also write every graph of a folder in the ORT format, as ONNX Runtime's own function does."""
    for path in sorted(folder.glob("*.onnx")):
        artifacts.convert_onnx_models_to_ort(
            path,
            output_dir=folder,
            custom_op_library_path=Path(get_library_path()),
            optimization_styles=[artifacts.OptimizationStyle.Fixed],
        )
