"""Makes batch norms in inference form train, if an exporter has dropped the training mode."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.batch_norms.calls import first_call
from onnx_cbp.graph_passes.core.batch_norms.naming import choosing
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.own_initializer import own_initializer
from onnx_cbp.graph_passes.core.sites import (
    BackwardSite,
    InferenceSite,
    LeftAlone,
    Site,
    give_statistic,
    in_graph,
    label,
)
from onnx_cbp.graph_passes.core.splice import COPIES, Names, Splice, is_used
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.dialects import is_rewritten_forward

_TRAINING_MODE_SINCE = 14
_TRAINING_OUTPUTS_SINCE = 7


class TrainBatchNormsPass(InPlacePass):
    """Every chosen `InferenceSite` becomes ONNX's BatchNormalization in the training form of the graph's opset.

        Y = BatchNormalization(X, scale, B, mean, var)
        Y, updated_mean, updated_var = BatchNormalization<training_mode=1>(X, scale, B, mean, var)   opset 14 and newer
        Y, updated_mean, updated_var, saved_mean, saved_var = BatchNormalization(...)                opset 7 to 13
        the same with is_test = 0                                                                    opset 1 to 6

    Epsilon and momentum are kept (momentum is ONNX's: the part of the old statistic that stays; 0.9 if the exporter
    wrote none). The graph keeps its inputs and outputs. Nothing reads the updated statistics in the graph, as in
    PyTorch's exports in training form. ONNX Runtime's training artifacts keep them, in place, if the statistics are
    named in frozen_params; a plain session keeps them if they are outputs of the graph.

    Only initializers can be parameters and be updated. So scale, B, mean and var become initializers of their own,
    under their names, if they are Constant nodes, or copies of equal initializers that an exporter merged. So do
    running statistics that are computed from constants, and those that arithmetic has in another shape, as vectors [C].

    Args:
        patterns: names of nodes, or paths of the modules from which they were exported (for `fnmatch`: *, ?, [...]).

    Raises:
        OnnxCbpError: a pattern chooses no batch norm, or one that cannot train; for example because its running
            statistics depend on what is fed, so that nothing could keep them.
    """

    def __init__(self, patterns: str | Sequence[str] = "*") -> None:
        super().__init__()
        self._patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place; if a pattern is refused, nothing changes."""
        _join_calls(list(find_sites(model)))
        sites = list(find_sites(model))
        self.check(sites)
        chosen = [site for site in sites if isinstance(site, InferenceSite) and self.chooses(site)]
        refused = [reason for site in chosen if (reason := _obstacle(site))]
        if refused:
            raise OnnxCbpError(refused[0])
        nodes = {site.node for site in chosen}
        names, types = Names(model), Types(model)
        statistics = _Statistics(model, names, types)
        for site in find_sites(model):  # again: each is read after the changes to those before it
            if isinstance(site, InferenceSite) and site.node in nodes:
                _train(site, model, names, types, statistics)
        statistics.name()
        return PassResult(model, bool(chosen))

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse patterns that choose nothing, or batch norms that cannot train.

        Raises:
            OnnxCbpError: see the class.
        """
        for pattern in self._patterns:
            if not (isinstance(pattern, str) and pattern):
                raise OnnxCbpError(f"train: {pattern!r} is no name of batch norms: use names of nodes, or '*' for all")
        for pattern in self._patterns:
            matched = [s for s in sites if _forward(s) and choosing((pattern,), s.node)]
            if not matched:
                hint = "; `onnx-cbp inspect` lists their names" if any(map(_forward, sites)) else ": it has none"
                raise OnnxCbpError(f"train: '{pattern}' chooses no batch norm of the model{hint}")
            for site in matched:
                # One that is already rewritten trains, and must not block others that a pattern chooses.
                rewritten = is_rewritten_forward(site.node) and label(site.node) != pattern
                if isinstance(site, LeftAlone) and not rewritten:
                    raise OnnxCbpError(
                        f"node '{label(site.node)}' ({site.form}) cannot be made to train: {site.reason}"
                    )

    def chooses(self, site: Site) -> bool:
        """Whether a pattern chooses the batch norm."""
        return bool(choosing(self._patterns, site.node))


def _forward(site: Site) -> bool:
    return not isinstance(site, BackwardSite) and not (
        site.node.domain == DOMAIN and not is_rewritten_forward(site.node)
    )


def _obstacle(site: InferenceSite) -> str | None:
    """Why a chosen batch norm cannot train, as one line; None if it can."""
    graph = site.node.graph
    prefix = f"node '{label(site.node)}' ({site.form}) cannot be made to train"
    for old in site.superfluous:
        if old.uses() or old.is_graph_output():
            return f"{prefix}: its output '{old.name}' is read, which inference form does not have: remove its readers"
    if site.node.domain != "":
        return f"{prefix}: it is an op of a training graph: use it on the model that the artifacts are made of"
    if isinstance(graph, ir.Function):
        return f"{prefix}: it stands in the model-local function '{graph.name}': inline the function first"
    for value in (in_graph(site.mean), in_graph(site.var)):
        if _is_computed_of_what_is_fed(value):
            return (
                f"{prefix}: its running statistic '{value.name}' is computed of what is fed, so no step could keep it: "
                "make it an initializer"
            )
    return None


def _is_computed_of_what_is_fed(value: ir.Value) -> bool:
    """Whether a value depends on inputs of the graph, and is not just one of them in another type or shape."""
    node = value.producer()
    while node is not None and node.domain == "" and node.op_type in COPIES and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return any(v is not value and v.is_graph_input() and not v.is_initializer() for v in made_of(value))


class _Statistics:
    """The running statistics of batch norms that will train, as vectors that can be parameters."""

    def __init__(self, model: ir.Model, names: Names, types: Types) -> None:
        self._model, self._names, self._types, self._constants = model, names, types, Constants(model)
        self._made: dict[tuple[ir.Value, int], ir.Value] = {}

    def of(self, site: InferenceSite, position: int) -> ir.Value:
        """The running mean (position 0) or variance (1) of a batch norm."""
        value = (site.mean, site.var)[position]
        if site.node.graph is not self._model.graph:
            return value
        if not site.interior:
            return own_initializer(value, self._model, self._constants)
        source = in_graph(value)
        array = self._constants.of(source)
        if array is None:
            return value
        if (source, position) not in self._made:  # calls of one module keep sharing one
            name = self._names.fresh(f"{label(site.node)}.{('running_mean', 'running_var')[position]}")
            dtype = self._types.of(site.X) or ir.DataType.from_numpy(array.dtype)  # arithmetic has one type
            tensor = ir.tensor(array.reshape(-1).astype(dtype.numpy()), name=name)
            shape = ir.Shape(tensor.shape.numpy())
            vector = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape, const_value=tensor)
            self._model.graph.register_initializer(vector)
            self._made[source, position] = vector
        return self._made[source, position]

    def name(self) -> None:
        """Give a vector the name of its original initializer, if nothing reads that any more."""
        graph = self._model.graph
        for (source, _), vector in self._made.items():
            if source.is_initializer() and not is_used(source) and not source.is_graph_input():
                name = source.name or ""
                del graph.initializers[name]
                vector.name = name


def _train(site: InferenceSite, model: ir.Model, names: Names, types: Types, statistics: _Statistics) -> None:
    splice = Splice(site.node, names, types)
    opset = onnx_opset(model.opset_imports)
    mean, var = (statistics.of(site, position) for position in range(2))
    parameters = [*(own_initializer(value, model) for value in (site.scale, site.B)), mean, var]
    known = types.shape(site.Y) or types.shape(site.X)
    outputs = [
        ("Y", types.of(site.Y) or types.of(site.X), None if known is None else ir.Shape(known)),
        ("updated_mean", mean.dtype, mean.shape),
        ("updated_var", var.dtype, var.shape),
    ]
    attributes: dict[str, int | float | Sequence[int]] = {"epsilon": site.epsilon, "momentum": site.momentum}
    if opset >= _TRAINING_MODE_SINCE:
        attributes["training_mode"] = 1
    else:
        outputs += [("saved_mean", mean.dtype, mean.shape), ("saved_var", var.dtype, var.shape)]
    if opset < _TRAINING_OUTPUTS_SINCE:
        attributes["is_test"] = 0
    if "consumed_inputs" in site.node.attributes:  # required by opset 1
        attributes["consumed_inputs"] = site.node.attributes["consumed_inputs"].as_ints()
    there, back = _permutations(site, types)
    X = (
        site.X
        if there is None
        else splice.add("Transpose", (site.X,), (("X", site.X.dtype, None),), {"perm": there})[0]
    )
    Y, *_ = splice.add("BatchNormalization", (X, *parameters), outputs, attributes)
    normalised = Y
    if back is not None:
        Y.shape = None
        (Y,) = splice.add("Transpose", (Y,), (("Y_as_before", *outputs[0][1:]),), {"perm": back})
    splice.hand_over(site.Y, Y)
    name = label(site.node)
    splice.commit(site.interior)
    node = normalised.producer()
    assert node is not None
    node.name = name  # the name of the original batch norm, by which options choose it


def _permutations(site: InferenceSite, types: Types) -> tuple[list[int] | None, list[int] | None]:
    """If ONNX's op needs the channels at axis 1 and they are not there: the permutations of X to there, and back."""
    shape = types.shape(site.X)
    if shape is None or len(shape) < 2 or site.axis % len(shape) == 1:
        return None, None
    axis = site.axis % len(shape)
    there = [0, axis, *(other for other in range(1, len(shape)) if other != axis)]
    return there, [there.index(position) for position in range(len(shape))]


def _join_calls(sites: Sequence[Site]) -> None:
    """Let all calls of one module read the running statistics of the first call, and none a copy."""
    running = [site for site in sites if isinstance(site, InferenceSite)]
    read = {value for site in running for value in (site.mean, site.var)}
    for site in running:
        for position, value in enumerate((site.mean, site.var)):
            first = first_call(value)
            if first is not value and first in read:
                give_statistic(site, position, first)
