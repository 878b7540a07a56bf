"""Gives each batch norm module its own running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import InferenceSite, give_statistic, in_graph, label
from onnx_cbp.graph_passes.core.splice import COPIES, Names
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.updating.batch_statistics import Layer, running_statistics

#: The names of running statistics, by position.
STATISTICS = ("running_mean", "running_var")


class OwnStatistics:
    """Gives modules their own tensors, with the shape and element type of what their layers read before."""

    def __init__(self, model: ir.Model, layers: Sequence[Layer]) -> None:
        self._graph = model.graph
        self._names = Names(model)
        self._types = Types(model)
        self._constants = Constants(model)
        sites = [layer.site for layer in layers if not isinstance(layer.site, InferenceSite)]
        self._updated = {value for site in sites for value in (site.updated_mean, site.updated_var) if value}

    def give(self, module: Sequence[Layer], position: int, statistic: np.ndarray) -> None:
        """Let the layers of a module read a running mean (position 0) or variance (1) from the module's own tensor.

        Args:
            module: its layers, one for each call.
            position: 0 or 1.
            statistic: the new one, [C].

        Raises:
            OnnxCbpError: the shape or type of what a layer reads is not known, or something else would read the new
                one.
        """
        made: dict[tuple[ir.DataType, tuple[int, ...]], ir.Value] = {}
        for layer in module:
            value = _running(layer, position)
            if self._goes_on(value):
                continue  # it reads what the call before it left
            self._refuse_shared(layer, position, module)
            kind = self._like(layer, position, len(statistic))
            if kind not in made:
                made[kind] = self._tensor(layer, position, statistic, *kind)
            _read(layer, position, made[kind])

    def _tensor(
        self, layer: Layer, position: int, statistic: np.ndarray, dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.Value:
        name = self._names.fresh(f"{label(layer.site.node)}.{STATISTICS[position]}")
        tensor = ir.tensor(kept(statistic, dtype.numpy(), shape, name), name=name)
        own = ir.Value(name=name, const_value=tensor, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self._graph.register_initializer(own)
        return own

    def _goes_on(self, value: ir.Value) -> bool:
        """Whether a statistic is the result of an earlier call of the module, maybe in another type or shape."""
        while value not in self._updated:
            node = value.producer()
            if node is None or node.domain != "" or node.op_type not in COPIES or node.inputs[0] is None:
                return False
            value = node.inputs[0]
        return True

    def _like(self, layer: Layer, position: int, channels: int) -> tuple[ir.DataType, tuple[int, ...]]:
        """Element type and shape of what a layer reads now."""
        old = in_graph(_running(layer, position))
        dtype, sizes = self._types.of(old), self._types.shape(old)
        if dtype is None or sizes is None:
            array = self._constants.of(old)
            if array is not None:
                dtype, sizes = ir.DataType.from_numpy(array.dtype), array.shape
        in_arithmetic = isinstance(layer.site, InferenceSite) and layer.site.interior
        # An op needs a vector; arithmetic broadcasts its input, along the last axis if it is a vector.
        shape = _fixed(sizes, channels) if in_arithmetic else (channels,)
        if dtype is None or shape is None:
            unknown = "element type" if dtype is None else "shape"
            raise OnnxCbpError(
                f"{_named(layer)} reads the {STATISTICS[position]} '{old.name}', whose {unknown} is not known: run "
                "onnx.shape_inference on the model first, or make it an initializer"
            )
        return dtype, shape

    def _refuse_shared(self, layer: Layer, position: int, module: Sequence[Layer]) -> None:
        """Raise if another statistic would change more than this layer in arithmetic."""
        site = layer.site
        if not (isinstance(site, InferenceSite) and site.interior):
            return
        old = in_graph(_running(layer, position))
        roles = "running mean and as running variance" if in_graph(_running(layer, 1 - position)) is old else ""
        if old in (in_graph(site.scale), in_graph(site.B)):
            roles = "a running statistic and as scale or bias"
        if roles:
            raise OnnxCbpError(f"{_named(layer)} reads '{old.name}' as {roles}: make two tensors of it")
        shared = next(made_of_it(old, nodes_of(module)), None)
        if shared is not None:
            raise OnnxCbpError(
                f"{_named(layer)} makes '{shared.name}' of the {STATISTICS[position]} '{old.name}', and not it alone "
                "reads that: let it have a copy of its own"
            )


def _running(layer: Layer, position: int) -> ir.Value:
    running = running_statistics(layer.site)
    assert running is not None
    return running[position]


def _named(layer: Layer) -> str:
    return f"node '{label(layer.site.node)}' ({layer.site.form})"


def nodes_of(layers: Sequence[Layer]) -> dict[ir.Node, bool]:
    """The nodes of the layers, and for each whether it is the last of its layer."""
    nodes = {node: False for layer in layers for node in layer.site.interior}
    nodes.update({layer.site.node: True for layer in layers})
    nodes.update({step: True for layer in layers for position in range(2) for step in _steps(layer, position)})
    return nodes


def _steps(layer: Layer, position: int) -> list[ir.Node]:
    """The separate nodes that update the running statistic; [] if the batch norm itself does."""
    site = layer.site
    updated = None if isinstance(site, InferenceSite) else (site.updated_mean, site.updated_var)[position]
    maker = None if updated is None else updated.producer()
    if maker is None or maker is site.node:
        return []
    if maker.domain != "":
        return [maker]
    # The cumulative average of the old and the new value.
    made = [value.producer() for value in maker.inputs if value is not None]
    return [node for node in made if node is not None]


def made_of_it(value: ir.Value, nodes: dict[ir.Node, bool]) -> Iterator[ir.Value]:
    """Values that layers compute from a statistic on the way to their results, and that something else reads."""
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        if current is not value and (current.is_graph_output() or any(u.node not in nodes for u in current.uses())):
            yield current
        for use in current.uses():
            if nodes.get(use.node) is False:
                waiting += [output for output in use.node.outputs if output not in seen]
                seen.update(use.node.outputs)


def is_read_elsewhere(home: ir.Value, nodes: dict[ir.Node, bool]) -> bool:
    """Whether anything except layers, and our ops, reads a tensor or values that are computed from it."""
    waiting, seen = [home], {home}
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return True
        for use in value.uses():
            node = use.node
            if node.domain == DOMAIN or nodes.get(node) is True or _leads_to_gradient(node):
                continue
            if node not in nodes and not (node.domain == "" and node.op_type in COPIES):
                return True
            waiting += [output for output in node.outputs if output not in seen]
            seen.update(node.outputs)
    return False


def _leads_to_gradient(node: ir.Node) -> bool:
    """Whether a node begins 1 / sqrt(var + epsilon) for the gradient of a frozen batch norm."""
    for op_type in ("Add", "Sqrt", "Reciprocal"):
        if (node.domain, node.op_type) != ("", op_type):
            return False
        readers = {use.node for use in node.outputs[0].uses()}
        if len(readers) != 1 or node.outputs[0].is_graph_output():
            return False
        (node,) = readers
    return node.domain == DOMAIN


def _fixed(sizes: Sequence[int | str | None] | None, channels: int) -> tuple[int, ...] | None:
    """A shape in which one axis has the channels and the others are 1; None if it is not known which axis that is."""
    if sizes is None:
        return None
    if channels == 1 and all(size == 1 for size in sizes):
        return (1,) * len(sizes)
    wide = [axis for axis, size in enumerate(sizes) if size == channels]
    wide = wide or [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    others = [size for axis, size in enumerate(sizes) if axis not in wide and isinstance(size, int) and size != 1]
    if len(wide) != 1 or others:
        return None
    return tuple(channels if axis == wide[0] else 1 for axis in range(len(sizes)))


def _read(layer: Layer, position: int, own: ir.Value) -> None:
    """Let a layer read another tensor."""
    site, old = layer.site, in_graph(_running(layer, position))
    if isinstance(site, InferenceSite):
        give_statistic(site, position, own)
        return
    steps = _steps(layer, position)
    for use in list(old.uses()):
        if use.node in steps or (use.node is site.node and use.idx == 3 + position):
            use.node.replace_input_with(use.idx, own)


def kept(statistic: np.ndarray, dtype: np.dtype, shape: Sequence[int], name: str) -> np.ndarray:
    """A float64 statistic, converted to the element type and shape in which it is kept.

    Raises:
        OnnxCbpError: it does not fit.
    """
    if np.prod(shape, dtype=np.int64) != statistic.size:
        raise OnnxCbpError(f"'{name}' has shape {list(shape)}, which does not hold {statistic.size} channels")
    with np.errstate(over="ignore"):
        values = statistic.astype(dtype)
    if not np.isfinite(values.astype(np.float64)).all():
        raise OnnxCbpError(
            f"'{name}' would be {np.abs(statistic).max():.3g}, which {dtype} does not hold: keep it in float"
        )
    return values.reshape(shape)
