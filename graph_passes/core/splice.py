"""Replaces one node by a few new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.scopes import scopes
from onnx_cbp.graph_passes.core.sites import ChannelVector, label
from onnx_cbp.graph_passes.core.types import Types

#: Ops whose result has the elements of their input, in the same order.
COPIES = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze")
_LONG = 80
#: Foreign ops with this in their name have a first result as large as the data; all other results are vectors of
#: channels.
_OF_VECTORS = "BatchNorm"


class Names:
    """Finds names that no value and no node of the model has yet."""

    def __init__(self, model: ir.Model) -> None:
        self._taken = set(_names(model))

    def fresh(self, wanted: str) -> str:
        """`wanted`, with a number appended if it is taken."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def _names(model: ir.Model) -> Iterator[str]:
    for scope in scopes(model):
        yield from (value.name or "" for value in scope.inputs)
        for node in RecursiveGraphIterator(scope):
            yield node.name or ""
            yield from (value.name or "" for value in (*node.inputs, *node.outputs) if value)
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                    yield from (value.name or "" for value in attribute.as_graph().inputs)
    yield from model.graph.initializers


def _is_vector_by_op(value: ir.Value) -> bool:
    """Whether a value is a vector (a statistic or a gradient) according to its op, whatever the graph declares."""
    node = value.producer()
    if node is None or node.domain == DOMAIN or not node.op_type.startswith(_OF_VECTORS):
        return False
    return value is not node.outputs[0]


class Draft:
    """Collects nodes for a graph; the graph changes only when they are inserted.

    Attributes:
        nodes: in order.
    """

    def __init__(
        self,
        name: str,
        names: Names,
        types: Types,
        doc_string: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.nodes: list[ir.Node] = []
        self._label = name
        self._names = names
        self._types = types
        self._doc_string = doc_string
        self._metadata = metadata or {}
        self._vectors: dict[ChannelVector, ir.Value] = {}

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType | None, ir.Shape | None]],
        attributes: Mapping[str, int | float | str | Sequence[int] | ir.TensorProtocol] | None = None,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        """Append a node; each output is given as (suffix of its name, type, shape)."""
        values = tuple(
            ir.Value(
                name=self._names.fresh(f"{self._label}/{suffix}"),
                type=None if dtype is None else ir.TensorType(dtype),
                shape=shape,
            )
            for suffix, dtype, shape in outputs
        )
        node = ir.node(
            op_type,
            inputs=[self._made(value) for value in inputs],
            attributes=attributes,
            domain=domain,
            outputs=values,
            name=self._names.fresh(f"{self._label}/{op_type}"),
            doc_string=self._doc_string,
            metadata_props=dict(self._metadata),
        )
        self.nodes.append(node)
        return values

    def _made(self, value: ir.Value | None) -> ir.Value | None:
        """`value`; if it is in no graph, first append the nodes that make it."""
        if not isinstance(value, ChannelVector):
            return value
        if value not in self._vectors:
            if value.source is not None:
                self._vectors[value] = self._reshaped(value.source, (-1,), "vector", value)
            else:
                assert value.dtype is not None
                assert value.shape is not None
                filled = np.full(value.shape.numpy(), value.fill, value.dtype.numpy())
                self._vectors[value] = self.constant("vector", ir.tensor(filled, dtype=value.dtype))
        return self._vectors[value]

    def _reshaped(self, value: ir.Value, sizes: Sequence[int], suffix: str, like: ir.Value) -> ir.Value:
        shape = self.constant(f"{suffix}_shape", ir.tensor(np.array(sizes, np.int64)))
        return self.add("Reshape", (value, shape), ((suffix, like.dtype, like.shape),))[0]

    def channel_op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType | None, ir.Shape | None]],
        **attributes: int | float | str | Sequence[int],
    ) -> tuple[ir.Value, ...]:
        """Append one of our ops, with all attributes written out."""
        return self.add(op_type, inputs, outputs, attributes, DOMAIN)

    def constant(self, suffix: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Append a constant: as a node, because a function has no initializers."""
        output = (suffix, tensor.dtype, ir.Shape(tuple(int(size) for size in tensor.shape.numpy())))
        return self.add("Constant", (), (output,), {"value": tensor})[0]

    def cast(self, value: ir.Value, dtype: ir.DataType, suffix: str) -> ir.Value:
        """`value` in another type; `value` itself if it has that type already."""
        if self._types.of(value) == dtype:
            return value
        return self.add("Cast", (value,), ((suffix, dtype, value.shape),), {"to": dtype.value})[0]


class Splice(Draft):
    """The nodes that will replace one node; nothing changes before `commit`."""

    def __init__(self, node: ir.Node, names: Names, types: Types) -> None:
        super().__init__(label(node), names, types, node.doc_string, node.metadata_props)
        self.node = node
        self._heirs: list[tuple[ir.Value, ir.Value]] = []

    def hand_over(self, old: ir.Value | None, new: ir.Value, dtype: ir.DataType | None = None) -> ir.Value:
        """Let `new` take over the name, type, shape, metadata and uses of `old`.

        `dtype` is the type that the op gives to `old`, if the graph does not state it.
        """
        if old is None:
            return new
        had = old.dtype or dtype
        if had is not None and new.dtype not in (None, had):
            new = self.cast(new, had, "as_before")
        shape = None if _is_vector_by_op(old) or not self._is_vector(new) else self._types.shape(old)
        wide = [size for size in shape or () if size != 1]  # a graph that declares more than one is wrong
        if shape is not None and len(shape) != 1 and (len(wide) == 1 or (not wide and new.shape and new.shape[0] == 1)):
            new = self._reshaped(new, [1 if size == 1 else -1 for size in shape], "shaped_as_before", old)
        self._heirs.append((old, new))
        return new

    @staticmethod
    def _is_vector(value: ir.Value) -> bool:
        return value.shape is not None and len(value.shape) == 1

    def become(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        more: Sequence[tuple[str, ir.DataType | None, ir.Shape | None]] = (),
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Node:
        """Replace the node by one of our ops, with the same outputs, followed by `more`."""
        own = [(value.name or "", value.dtype, value.shape) for value in self.node.outputs]
        results = self.channel_op(op_type, inputs, [*own, *more], **attributes)
        for old, new in zip(self.node.outputs, results, strict=False):
            self.hand_over(old, new)
        self.commit()
        node = results[0].producer()
        assert node is not None
        return node

    def commit(self, interior: Sequence[ir.Node] = (), *, remove: bool = True) -> None:
        """Insert the new nodes before the old one, hand over its values, and remove it.

        Args:
            interior: earlier nodes, of which those are removed that nothing reads any more.
            remove: if False, the old node stays, for those of its values that are not handed over.
        """
        holder = self.node.graph
        assert holder is not None
        holder.insert_before(self.node, self.nodes)
        for old, new in self._heirs:
            succeed(old, new)
        if remove:
            holder.remove(self.node, safe=True)
            _remove_unused(interior)


def _remove_unused(nodes: Sequence[ir.Node]) -> None:
    waiting = list(nodes)
    while unused := [node for node in waiting if not any(is_used(value) for value in node.outputs)]:
        for node in unused:
            assert node.graph is not None
            node.graph.remove(node, safe=True)
            waiting.remove(node)


def inherit(old: ir.Value, new: ir.Value) -> None:
    """Give `new` the uses, type, shape and metadata of `old`, but not its name."""
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.type = old.type if old.type is not None else new.type
    new.shape = old.shape if old.shape is not None else new.shape
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)  # onnx-ir keeps quantization annotations there


def succeed(old: ir.Value, new: ir.Value) -> None:
    """Give `new` everything that `old` has, including its name."""
    inherit(old, new)
    name, old.name = old.name, None
    new.name = name


def may_succeed(old: ir.Value, new: ir.Value) -> bool:
    """Whether an existing value can `succeed` another; or, if the other is no output, take over its uses.

    An output of a graph or subgraph must be made by a node of that graph: not an input, a constant or a value of an
    outer graph. Two outputs must not be the same value. Otherwise a node that copies is needed.
    """
    if not old.is_graph_output():
        return True
    maker, made = old.producer(), new.producer()
    return maker is not None and made is not None and made.graph is maker.graph and not new.is_graph_output()


def short(name: str) -> str:
    """A shortened name: several of these must fit into the description of a collective that replicas exchange."""
    return name if len(name) <= _LONG else f"{name[: _LONG // 2]}...{name[-_LONG // 2 :]}"


def is_used(value: ir.Value | None) -> bool:
    """Whether anything reads the value."""
    return value is not None and (bool(value.uses()) or value.is_graph_output())


def origin(value: ir.Value) -> ir.Node | None:
    """The node that made a value, or made the value of which it is a copy in another type."""
    node = value.producer()
    while node is not None and node.domain == "" and node.op_type in ("Cast", "Identity"):
        (copied,) = node.inputs
        node = None if copied is None else copied.producer()
    return node


def statistics_type(scale: ir.Value, types: Types) -> ir.DataType:
    """The type of the statistics of a batch norm with this scale: double for double, otherwise float."""
    return ir.DataType.DOUBLE if types.of(scale) == ir.DataType.DOUBLE else ir.DataType.FLOAT
