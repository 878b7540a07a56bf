"""Makes a model whose only outputs are the batch statistics of its batch norms."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.batch_norms.calls import first_call
from onnx_cbp.graph_passes.core.batch_norms.naming import module_path
from onnx_cbp.graph_passes.core.scopes import import_domain
from onnx_cbp.graph_passes.core.sites import (
    BackwardSite,
    ChannelVector,
    ForwardSite,
    InferenceSite,
    LeftAlone,
    Site,
    in_graph,
    label,
)
from onnx_cbp.graph_passes.core.splice import COPIES, Names, Splice, statistics_type
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.dialects import inference_form, is_frozen_forward, is_rewritten_forward, rewritten_site

_CHANGES = tuple(op for op in COPIES if op != "Identity")  # a copy may be a separate parameter: `first_call` decides
_DEEPEST = 16  # between a scale and its parameter


@dataclass(frozen=True)
class Layer:
    """A batch norm of the main graph, and where its running statistics come from.

    Attributes:
        site: the batch norm.
        relu: whether it includes a Relu.
        mean, var: the running statistics at the beginning of the graph: before other layers that share them, and before
            any change of type or shape.
        scale, B: the same for these.
        module: a key that all calls of one module have in common.
    """

    site: ForwardSite | InferenceSite
    relu: bool
    mean: ir.Value
    var: ir.Value
    scale: ir.Value
    B: ir.Value
    module: tuple[object, ...]


def find_layers(model: ir.Model) -> list[Layer]:
    """The batch norms of a model that have running statistics, whether they train, infer or are rewritten.

    Raises:
        OnnxCbpError: one is in a subgraph, or the channel ops cannot take it.
    """
    found = [read for site in find_sites(model) if (read := _read(site)) is not None]
    before: dict[ir.Value, ir.Value] = {}
    layers, contents = [], _Contents()
    for site, relu in found:
        if site.node.graph is not model.graph:
            raise OnnxCbpError(
                f"node '{label(site.node)}' ({site.form}) stands in a subgraph, from where its statistics cannot be "
                "had: move it out of the If, Loop or Scan"
            )
        running = running_statistics(site)
        if running is None:
            continue
        if isinstance(site, ForwardSite):
            if site.X in made_of(*(_root(value, before) for value in running)):
                continue  # PyTorch's exporter computes them from the batch if a layer tracks none
            for updated, old in zip((site.updated_mean, site.updated_var), running, strict=True):
                if updated is not None:
                    before[updated] = old
        mean, var, scale, B = (_root(value, before) for value in (*running, site.scale, site.B))
        layers.append(Layer(site, relu, mean, var, scale, B, (mean, var, *_parameters(site, mean, contents))))
    return layers


def _parameters(site: ForwardSite | InferenceSite, mean: ir.Value, contents: _Contents) -> tuple[object, ...]:
    """What else distinguishes modules whose statistics are one tensor, since it may stand for several equal ones.

    If it is fed, it is one parameter. Scale and bias are compared by their content, since each call of a module without
    them has its own ones and zeros. Modules at different paths have equal statistics before any training, and an
    exporter may merge those. Later they are equal only if both paths lead to one module.
    """
    if mean.is_graph_input() and not mean.is_initializer():
        return ()
    path = module_path(site.node) if _is_fresh(mean) else ""
    return path, contents.of(site.scale), contents.of(site.B)


def _is_fresh(mean: ir.Value) -> bool:
    """Whether a running mean is zeros, as before any training."""
    tensor = ir.convenience.get_const_tensor(mean)
    return tensor is not None and not tensor.numpy().any()


class _Contents:
    """The contents of values, as numbers: equal ones are equal.

    A content is made of numbers, and of values that are fed. Shapes and types that are read do not count.
    """

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._known: dict[tuple[ir.Value, int], int] = {}

    def of(self, value: ir.Value | None, depth: int = 0) -> int:
        """The number of what a value is made of, which nodes read as often as they like."""
        if value is None:
            return self._number(None)
        value = in_graph(value)
        if (value, depth) not in self._known:
            self._known[value, depth] = self._made(value, depth)
        return self._known[value, depth]

    def _number(self, content: object) -> int:
        return self._numbers.setdefault(content, len(self._numbers))

    def _made(self, value: ir.Value, depth: int) -> int:
        if isinstance(value, ChannelVector):
            return self._number(value.fill)
        node = value.producer()
        if value.is_graph_input() or depth == _DEEPEST:
            return self._number(value)
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return self._number(tensor.numpy().tobytes())
        if node is None or not node.inputs:
            return self._number(value)
        if node.op_type == "Shape":
            return self._number(node.op_type)
        if node.op_type in ("CastLike", *COPIES):
            return self.of(node.inputs[0], depth + 1)
        return self._number((node.op_type, *(self.of(each, depth + 1) for each in node.inputs)))


def running_statistics(site: ForwardSite | InferenceSite) -> tuple[ir.Value, ir.Value] | None:
    """The running mean and variance that a batch norm reads; None if it has none."""
    if isinstance(site, InferenceSite):
        return site.mean, site.var
    if site.running_mean is None or site.running_var is None:
        return None
    return site.running_mean, site.running_var


def _read(site: Site) -> tuple[ForwardSite | InferenceSite, bool] | None:
    """The forward batch norm of a site, and whether it includes a Relu."""
    if isinstance(site, BackwardSite):
        return None
    if not isinstance(site, LeftAlone):
        return site, False
    if is_frozen_forward(site.node):
        frozen = inference_form(site.node)
        return frozen if isinstance(frozen, tuple) else None
    if is_rewritten_forward(site.node):
        return rewritten_site(site.node)
    if site.node.domain == DOMAIN:
        return None
    raise OnnxCbpError(f"node '{label(site.node)}' ({site.form}) has no statistics to be had: {site.reason}")


def _root(value: ir.Value, before: dict[ir.Value, ir.Value]) -> ir.Value:
    """The value before all steps that only update a running statistic, or change its type or shape."""
    while True:
        value = in_graph(value)
        producer = value.producer()
        if value in before:
            value = before[value]
        elif (first := first_call(value)) is not value:
            value = first
        elif producer is not None and producer.domain == "" and producer.op_type in _CHANGES:
            same = producer.inputs[0]
            assert same is not None
            value = same
        else:
            return value


def expose_statistics(model: ir.Model) -> list[tuple[str, str, str]]:
    """Make (mean, var, count) of each layer's batch the only outputs of the graph, in place.

    Each layer normalises with the statistics of its batch, as in training:

        mean, var, count = ChannelStats(X)
        Y = ChannelNormalize(X, scale, B, mean, var)

    Returns:
        The names of the outputs, one triple for each of `find_layers(model)`.
    """
    layers = find_layers(model)
    names, types = Names(model), Types(model)
    graph = model.graph
    graph.outputs[:] = [layer.site.Y for layer in layers]
    _cut_off(graph)
    statistics: list[tuple[ir.Value, ...]] = []
    for layer in reversed(layers):  # a later layer may read statistics that an earlier one has updated
        statistics.insert(0, _expose(layer, names, types))
        _cut_off(graph)
    graph.outputs[:] = [value for triple in statistics for value in triple]
    _cut_off(graph)
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]
    # Models of IR version 3 list them among the inputs, and ONNX Runtime accepts no initializer that nothing reads.
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    import_domain(model)
    return [(str(mean.name), str(var.name), str(count.name)) for mean, var, count in statistics]


def feed_bfloat16_as_float(model: ir.Model) -> None:
    """Let inputs of bfloat16, a type that NumPy and ONNX Runtime's arrays do not have, be fed as float, in place."""
    graph, names = model.graph, Names(model)
    for index, value in enumerate(graph.inputs):
        if value.dtype != ir.DataType.BFLOAT16 or not isinstance(value.type, ir.TensorType) or value.is_initializer():
            continue
        fed = ir.Value(name=value.name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        value.name = names.fresh(f"{value.name}/bfloat16")
        cast = ir.node("Cast", [fed], {"to": ir.DataType.BFLOAT16.value}, name=value.name)
        cast.outputs[0].type, cast.outputs[0].shape = value.type, value.shape
        graph.inputs[index] = fed
        value.replace_all_uses_with(cast.outputs[0])
        cast.outputs[0].name = value.name
        graph.insert_before(graph[0], cast)


def _expose(layer: Layer, names: Names, types: Types) -> tuple[ir.Value, ...]:
    site = layer.site
    splice = Splice(site.node, names, types)
    dtype, vector = statistics_type(site.scale, types), site.scale.shape
    statistics = splice.channel_op(
        "ChannelStats",
        (site.X,),
        (("mean", dtype, vector), ("var", dtype, vector), ("count", ir.DataType.INT64, ir.Shape([]))),
        axis=site.axis,
        stash_type=dtype.value,
    )
    whole = ("Y", site.X.dtype, site.X.shape)
    scale, B = splice.cast(site.scale, dtype, "scale"), splice.cast(site.B, dtype, "B")
    (Y,) = splice.channel_op(
        "ChannelNormalize", (site.X, scale, B, *statistics[:2]), (whole,), axis=site.axis, epsilon=site.epsilon
    )
    if layer.relu:
        (Y,) = splice.add("Relu", (Y,), (whole,))
    _refuse_readers(site.node, site.Y)
    splice.hand_over(site.Y, Y)
    splice.commit()
    graph = Y.graph
    assert graph is not None
    graph.outputs.extend(statistics)  # until all are exposed, or they would be removed as unused
    return statistics


def _refuse_readers(node: ir.Node, Y: ir.Value) -> None:
    """Refuse readers of a layer's statistics, which disappear, if the data of another layer depend on them."""
    for value in node.outputs:
        readers = () if value is Y else value.uses()
        for reader, _ in readers:
            raise OnnxCbpError(
                f"node '{label(reader)}' reads '{value.name}', a statistic that the batch norm '{label(node)}' updates "
                "and update_bn takes no statistics of what depends on it: let the node read the stored one"
            )


def _cut_off(graph: ir.Graph) -> None:
    """Remove the nodes that no output of the graph needs."""
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
