"""Makes every node compute what it computes at inference, with ONNX's own ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, InferenceSite, LeftAlone, label
from onnx_cbp.graph_passes.core.splice import Names, Splice, is_used
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.dialects import in_onnx, inference_form, running_updates
from onnx_cbp.graph_passes.dialects.made_statistics import MadeStatistics
from onnx_cbp.graph_passes.finalizing.batch_arithmetic import of_its_batch, write_in_onnx

_BATCH_NORM = "BatchNormalization"
_DROPOUT_TESTS_BY_ITSELF_SINCE = 7


class ToInferencePass(InPlacePass):
    """Batch norms use their running statistics, and Dropout lets everything through.

    A batch norm becomes BatchNormalization in inference form in the model's opset, followed by a Relu if it included
    one. One in inference form already stays. It uses the running statistics before the step, even if one step updates
    them several times. Ops of ONNX Runtime's training builds become the corresponding ONNX ops. Old nodes stay as long
    as a
    backward pass reads them: afterwards run a removal of unused nodes, and then `training_left`.

    A batch norm without running statistics still normalises with those of its batch, in ONNX's arithmetic: a module of
    PyTorch without them does so in evaluation mode too.

    The model's functions must be inlined.

    Attributes:
        by_batch: after a call, the batch norms without running statistics: name of the node, and result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_batch: list[tuple[str, ir.Value]] = []

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        self.by_batch = []
        names, types = Names(model), Types(model)
        opset = onnx_opset(model.opset_imports)
        updates = _updates(model)
        before = _before(updates)
        modified = _leave_subgraphs(model, updates, names, types)
        modified |= self._keep_batch_statistics(model, opset, names, types)
        for site, relu in _sites(model):
            if not _is_plain(site):
                _replace(site, relu, opset, names, types, before)
                modified = True
        for node in list(all_nodes(model)):
            modified |= _exchange(node, opset, names, types)
        _name_what_is_left(model, names)
        return PassResult(model, modified)

    def _keep_batch_statistics(self, model: ir.Model, opset: int, names: Names, types: Types) -> bool:
        modified = False
        for site in list(find_sites(model)):
            kept = None if isinstance(inference_form(site.node), tuple) else of_its_batch(site)
            if kept is None:
                continue
            name, Y = label(kept.node), kept.Y
            if not kept.in_onnx:
                splice = Splice(kept.node, names, types)
                Y = write_in_onnx(kept, opset, splice, types)
                splice.commit(remove=False)
                modified = True
            self.by_batch.append((name, Y))
        return modified


def _name_what_is_left(model: ir.Model, names: Names) -> None:
    """Give the results of old nodes new names, since others now have theirs: an updated statistic may be an output."""
    for node in all_nodes(model):
        for value in node.outputs:
            if value.name is None:
                value.name = names.fresh(f"{label(node)}/replaced")


def training_left(model: ir.Model) -> LeftAlone | None:
    """The first batch norm that does not normalise with running statistics, and why; None if there is none."""
    for site in find_sites(model):
        kept = of_its_batch(site)
        if kept is not None and kept.in_onnx:
            continue
        if isinstance(site, ForwardSite):
            return LeftAlone(site.node, site.form, _why_it_trains(site))
        if isinstance(site, MadeStatistics):
            continue  # it computes the same at inference
        if isinstance(site, LeftAlone):
            if site.node.domain == "" and site.node.op_type != _BATCH_NORM:
                continue  # it computes the same at inference as in training
            ours = inference_form(site.node)
            return ours if isinstance(ours, LeftAlone) else site
        if isinstance(site, BackwardSite):
            return LeftAlone(site.node, site.form, "it is a gradient, which inference has not")
    return None


def _why_it_trains(site: ForwardSite) -> str:
    """What keeps a batch norm from using running statistics, in one clause."""
    made = (site.updated_mean, site.updated_var, site.saved_mean, site.saved_var, site.saved_inv_std)
    read = next((value.name for value in made if value is not None and is_used(value)), site.Y.name)
    return f"its statistic '{read}' is read by what the outputs need, and inference makes none: name other outputs"


def _sites(model: ir.Model) -> Iterator[tuple[InferenceSite, bool]]:
    """Every batch norm whose running statistics are known, and whether it includes a Relu.

    Each is read only when it is asked for, since a change to one affects what the next one reads.
    """
    for site in find_sites(model):
        if isinstance(site, ForwardSite) and site.running_mean is not None and site.running_var is not None:
            yield _with_running_statistics(site, site.running_mean, site.running_var), False
        elif isinstance(site, InferenceSite):
            yield site, False
        elif isinstance(site, LeftAlone):
            ours = inference_form(site.node)
            if isinstance(ours, tuple):
                yield ours


def _with_running_statistics(site: ForwardSite, mean: ir.Value, var: ir.Value) -> InferenceSite:
    given = (site.node, site.form, site.axis, site.epsilon, site.momentum, site.X, site.scale, site.B, mean, var)
    updated = (site.updated_mean, site.updated_var, site.saved_mean, site.saved_var, site.saved_inv_std)
    return InferenceSite(*given, site.Y, tuple(value for value in updated if value is not None))


def _updates(model: ir.Model) -> dict[ir.Value, ir.Value]:
    """Every running statistic after the step of a batch norm, with its value before the step."""
    updates: dict[ir.Value, ir.Value] = {}
    for node in all_nodes(model):
        updates.update(running_updates(node))
    for site in find_sites(model):
        if isinstance(site, ForwardSite):
            pairs = ((site.updated_mean, site.running_mean), (site.updated_var, site.running_var))
            updates.update((after, before) for after, before in pairs if after is not None and before is not None)
    return updates


def _leave_subgraphs(model: ir.Model, updates: Mapping[ir.Value, ir.Value], names: Names, types: Types) -> bool:
    """Branches and bodies that return updated statistics return the old ones instead, which are used at inference.

    Readers outside are removed with the rest of the training graph, but the branch must keep all its outputs.
    """
    modified = False
    for after, old in updates.items():
        node = after.producer()
        if node is None or node.graph is model.graph or not after.is_graph_output():
            continue
        splice = Splice(node, names, types)
        (same,) = splice.add("Identity", (old,), (("as_before", after.dtype, after.shape),))
        splice.hand_over(after, same)
        splice.commit(remove=False)
        modified = True
    return modified


def _before(updates: Mapping[ir.Value, ir.Value]) -> Callable[[ir.Value], ir.Value]:
    """Finds the value of a running statistic before the step."""

    def first(value: ir.Value) -> ir.Value:
        walk = value
        while (producer := walk.producer()) is not None:
            if walk in updates:
                walk = value = updates[walk]
            elif producer.domain == "" and producer.op_type in ("Cast", "Identity") and producer.inputs[0] is not None:
                walk = producer.inputs[0]  # only to look before it: a type may be needed
            else:
                break
        return value

    return first


def _is_plain(site: InferenceSite) -> bool:
    node = site.node
    training = node.attributes.get("training_mode")
    return (
        (node.domain, node.op_type) == ("", _BATCH_NORM)
        and len(node.outputs) == 1
        and not (training is not None and training.as_int())
    )


def _replace(
    site: InferenceSite, relu: bool, opset: int, names: Names, types: Types, before: Callable[[ir.Value], ir.Value]
) -> None:
    maker = site.Y.producer()
    assert maker is not None
    splice = Splice(maker, names, types)
    statistics = [before(site.mean), before(site.var)]
    if site.Y in made_of(*statistics):
        raise OnnxCbpError(
            f"node '{label(site.node)}' cannot be finalized: its running statistics are made of its own result "
            f"'{site.Y.name}', which is made of them at inference"
        )
    vectors = _typed(site, statistics, opset, splice, types)
    attributes: dict[str, int | float | list[int]] = {"epsilon": site.epsilon, "momentum": site.momentum}
    if opset < 7:
        attributes["is_test"] = 1
    if opset < 6:
        attributes["consumed_inputs"] = [0, 0, 0, 0, 0]  # required, but without meaning
    X, back = _channels_second(site, splice)
    like = ("Y", site.Y.dtype, None if back else site.Y.shape)
    (Y,) = splice.add(_BATCH_NORM, (X, *vectors), (like,), attributes)
    if relu:
        (Y,) = splice.add("Relu", (Y,), (like,))
    if back:
        (Y,) = splice.add("Transpose", (Y,), (("Y_as_before", site.Y.dtype, site.Y.shape),), {"perm": back})
    splice.hand_over(site.Y, Y)
    splice.commit(remove=False)


def _typed(site: InferenceSite, statistics: list[ir.Value], opset: int, splice: Splice, types: Types) -> list[ir.Value]:
    """Scale, B, mean and variance in types that the op has in an opset."""
    vectors, dtype = [site.scale, site.B, *statistics], types.of(site.X)
    if dtype == ir.DataType.DOUBLE:  # ONNX Runtime has no kernel that mixes it with float, and the cast is exact
        return [splice.cast(value, dtype, "as_X") for value in vectors]
    if dtype is None or opset >= 15:  # each has a type of its own
        return vectors
    if opset == 14 and dtype.itemsize < 4:  # mean and variance have; ONNX Runtime mixes no float with double there
        return [*(splice.cast(value, dtype, "as_X") for value in vectors[:2]), *statistics]
    for statistic in statistics:
        _refuse_overflow(site, statistic, dtype, opset)
    return [splice.cast(value, dtype, "as_X") for value in vectors]


def _refuse_overflow(site: InferenceSite, statistic: ir.Value, dtype: ir.DataType, opset: int) -> None:
    tensor = ir.convenience.get_const_tensor(statistic)
    if tensor is None or tensor.dtype == dtype:
        return
    with np.errstate(over="ignore"):
        fits = np.isfinite(tensor.numpy().astype(dtype.numpy()).astype(np.float64)).all()
    if not fits:
        raise OnnxCbpError(
            f"node '{label(site.node)}': {dtype}, the type of '{site.X.name}', does not hold the running statistic "
            f"'{statistic.name}', and opset {opset} has one type for both: convert the model to opset 15 or newer"
        )


def _channels_second(site: InferenceSite, splice: Splice) -> tuple[ir.Value, list[int]]:
    """X with its channels at axis 1, and the permutation that brings the result back; [] if that is X itself."""
    shape = site.X.shape
    if site.axis == 1 or (shape and site.axis % len(shape) == 1):
        return site.X, []
    if not shape:
        raise OnnxCbpError(
            f"node '{label(site.node)}': the rank of '{site.X.name}' is not known: "
            "run onnx.shape_inference on the model first"
        )
    there = list(range(len(shape)))
    there.insert(1, there.pop(site.axis % len(shape)))
    (X,) = splice.add("Transpose", (site.X,), (("X_channels_second", site.X.dtype, None),), {"perm": there})
    return X, [there.index(axis) for axis in range(len(shape))]


def _exchange(node: ir.Node, opset: int, names: Names, types: Types) -> bool:
    """Make the first output by ops of ONNX; the other outputs stay with the old node, for backward passes."""
    splice = Splice(node, names, types)
    new = in_onnx(node, opset, splice)
    if new is None:
        return False
    if (node.domain, node.op_type) == ("", "Dropout"):
        # An output may need the mask, which is then that of a Dropout that lets everything through.
        node.resize_inputs(1)
        if opset < _DROPOUT_TESTS_BY_ITSELF_SINCE:
            node.attributes["is_test"] = ir.AttrInt64("is_test", 1)
    splice.hand_over(node.outputs[0], new)
    splice.commit(remove=False)
    return True
