"""Gradients of a value of a graph, as nodes of the graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.custom_ops.schemas import register_schemas
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.detach import detach
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import import_domain, write_defaults
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import succeed
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.dialects._reading import WrongAttributeError
from onnx_cbp.graph_passes.differentiating import rules  # noqa: F401  (they register themselves)
from onnx_cbp.graph_passes.differentiating.bodies import Body, body_of
from onnx_cbp.graph_passes.differentiating.builder import Builder
from onnx_cbp.graph_passes.differentiating.our_ops import infer_all_of_ours
from onnx_cbp.graph_passes.differentiating.registry import ZERO, Rule, apply, is_flat, rule_of

OLDEST_OPSET = 13

#: What to do instead, for ops without a rule for which there is advice.
_INSTEAD = {
    "Loop": "export it with a fixed number of steps, which then stand in the graph",
    "Scan": "export it with a fixed number of steps, which then stand in the graph",
    "If": "export the branch that trains alone",
}
_QUANTIZES = ("DynamicQuantizeLinear", "QuantizeLinear")


def differentiate(
    model: ir.Model,
    loss: ir.Value | Mapping[ir.Value, ir.Value],
    values: Sequence[ir.Value],
    *,
    own_ops: bool = False,
    own_convolutions: bool = False,
    changing: Collection[ir.Value] = (),
) -> list[ir.Value | None]:
    """Append the nodes that compute d loss / d value for each value of the main graph.

    What no value reaches costs nothing. Symbolic sizes stay symbolic. The results are values of the graph, but not yet
    outputs; to get second derivatives, differentiate one of them.

    Args:
        model: changed in place. Its nodes are in order, as ONNX demands.
        loss: a floating-point value with one element. Or, for a vector-Jacobian product, the values to begin at,
            each with the gradient of some further loss with respect to it (same type and shape).
        values: floating-point values: inputs, initializers, or outputs of nodes.
        own_ops: write ops of this project (DepthwiseConvGradWeight) where they are faster than standard ones: the
            graph then needs the native library. Otherwise gradients of standard ops are standard ops.
        own_convolutions: write also those that have no CUDA kernel (ConvGradWeight, DirectConvExchanged).
        changing: initializers that another value may be given for, besides `values`: no gradient relies on their
            present one.

    Returns:
        For each value its gradient, of the value's type and shape; None where the loss does not depend on it.

    Raises:
        OnnxCbpError: one line, before anything is changed: an op between the values and the loss has no rule, the
            type or rank of a value is not known, or the opset is below 13.
    """
    _check_opset(model)
    register_schemas()  # with them onnx, if it is new enough, infers types through our ops
    write_defaults(model)
    infer_all_of_ours(model)
    seeds = dict(loss) if isinstance(loss, Mapping) else {loss: None}
    changing = {*changing, *values}
    builder = Builder(model, own_ops=own_ops, own_convolutions=own_convolutions, changing=changing)
    tape = _Tape(model, [*seeds], values)
    try:
        sweep = _Sweep(builder, tape)
        for value, seed in seeds.items():
            sweep.add(value, _one(builder, value) if seed is None else _checked(builder, value, seed))
        sweep.run(tape.entries)
        results = [sweep.total(value) for value in values]
    except BaseException:
        builder.abandon()
        tape.abandon()
        raise
    tape.commit()
    builder.commit(results)
    if any(node.domain == DOMAIN for node in model.graph):
        import_domain(model)
    return results


@dataclass(frozen=True)
class _Entry:
    """A node between the values and the loss, with its rule, or with the body that replaces it."""

    node: ir.Node
    rule: Rule | None
    body: Body | None
    entries: tuple[_Entry, ...] = ()


class _Tape:
    """The nodes through which the values reach the loss, each with its rule or body.

    Attributes:
        entries: in the order of the graph.
        reached: everything that depends on the values.
    """

    def __init__(self, model: ir.Model, losses: Sequence[ir.Value], values: Sequence[ir.Value]) -> None:
        self._model = model
        self._types = Types(model)
        for value in values:
            if not self._is_float(value):
                dtype = self._types.of(value)
                raise OnnxCbpError(f"'{value.name}' has type {dtype}: only floating-point values have gradients")
        self.reached: set[ir.Value] = set(values)
        nodes = list(model.graph)
        self._reach(nodes)
        self._refuse_rounding(nodes, losses)
        self._bodies: list[Body] = []
        try:
            self.entries = [self._entry(node) for node in self._on_the_way(nodes, losses)]
        except OnnxCbpError:
            self.abandon()
            raise

    def _on_the_way(self, nodes: Sequence[ir.Node], ends: Iterable[ir.Value]) -> list[ir.Node]:
        """The nodes through which what is reached leads to some values, in order."""
        leads, found = set(ends), []
        for node in reversed(nodes):
            if any(value in leads and value in self.reached for value in node.outputs) and self._is_reached(node):
                found.append(node)
                leads.update(value for value in node.inputs if value is not None)
        return found[::-1]

    def _reach(self, nodes: Sequence[ir.Node]) -> None:
        for node in nodes:
            if self._is_reached(node) and not is_flat(node):
                self.reached.update(value for value in node.outputs if self._is_float(value))

    def _refuse_rounding(self, nodes: Sequence[ir.Node], losses: Sequence[ir.Value]) -> None:
        """Raise for a quantized model: all gradients of its weights would be zero, and it would never train."""
        read = set(made_of(*losses))
        for node in nodes:
            if node.op_type in _QUANTIZES and self._is_reached(node) and any(value in read for value in node.outputs):
                value = next(value for value in node.inputs if value in self.reached)
                name = None if value is None else value.name
                raise OnnxCbpError(
                    f"node '{label(node)}': {node.op_type} rounds '{name}', and no gradient passes it: give the model "
                    "as it was before it was quantized"
                )

    def _is_reached(self, node: ir.Node) -> bool:
        return any(value in self.reached for value in _read(node))

    def _is_float(self, value: ir.Value) -> bool:
        dtype = self._types.of(value)
        return dtype is None or dtype.is_floating_point()

    def _entry(self, node: ir.Node) -> _Entry:
        rule = rule_of(node)
        if rule is not None:
            return _Entry(node, rule, None)
        body = body_of(node, self._model, self._types)
        if body is None:
            raise self._no_rule(node)
        self._bodies.append(body)
        self._reach(body.nodes)
        inner = self._on_the_way(body.nodes, body.outputs)
        try:
            return _Entry(node, None, body, tuple(self._entry(each) for each in inner))
        except OnnxCbpError:  # that error names a node of the body, which the model does not have
            raise self._no_rule(node) from None

    def _no_rule(self, node: ir.Node) -> OnnxCbpError:
        reader = next(value for value in _read(node) if value in self.reached)
        domain = node.domain or "ai.onnx"
        return OnnxCbpError(
            f"node '{label(node)}': {domain}.{node.op_type} has no gradient rule, and '{reader.name}' reaches the loss "
            f"through it: freeze what is before it, or {_INSTEAD.get(node.op_type, 'replace the op')}"
        )

    def commit(self, entries: Sequence[_Entry] | None = None) -> None:
        """Replace the nodes that have no rule by their bodies."""
        for entry in self.entries if entries is None else entries:
            if entry.body is not None:
                graph = entry.node.graph
                assert graph is not None
                graph.insert_before(entry.node, entry.body.nodes)
                for old, new in zip(entry.node.outputs, entry.body.outputs, strict=True):
                    succeed(old, new)
                graph.remove(entry.node, safe=True)
                self.commit(entry.entries)

    def abandon(self) -> None:
        """Leave the graph as it was."""
        for body in self._bodies:
            detach(body.nodes)


class _Sweep:
    """Goes back over the tape, and sums the gradients that reach each value."""

    def __init__(self, builder: Builder, tape: _Tape) -> None:
        self._builder = builder
        self._reached = tape.reached
        self._parts: dict[ir.Value, list[ir.Value]] = defaultdict(list)

    def add(self, value: ir.Value, gradient: ir.Value) -> None:
        """Add a gradient to those that reach a value."""
        self._parts[value].append(gradient)

    def total(self, value: ir.Value) -> ir.Value | None:
        """The sum of the gradients that have reached a value so far; None if there is none."""
        parts = self._parts.pop(value, [])
        while len(parts) > 1:  # in pairs: ONNX Runtime can run an Add in place, but not a Sum
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [self._builder.Add(*pair, like=value) if len(pair) == 2 else pair[0] for pair in pairs]
        if parts:
            self._parts[value] = parts
        return parts[0] if parts else None

    def run(self, entries: Sequence[_Entry]) -> None:
        """Differentiate the entries, the last one first."""
        for entry in reversed(entries):
            node = entry.node
            gradients = [self.total(value) for value in node.outputs]
            if all(gradient is None for gradient in gradients):
                continue
            self._builder.work_on(node, {value for value in node.inputs if value in self._reached})
            if entry.body is not None:
                self._builder.adopt(entry.body.nodes)
                for value, gradient in zip(entry.body.outputs, gradients, strict=True):
                    if gradient is not None:
                        self.add(value, gradient)
                self.run(entry.entries)
            elif entry.rule is not None:
                self._apply(entry.rule, node, gradients)

    def _apply(self, rule: Rule, node: ir.Node, gradients: Sequence[ir.Value | None]) -> None:
        try:
            answers = apply(rule, self._builder, node, gradients)
        except WrongAttributeError as error:
            raise self._builder.refuse(str(error)) from None
        for index, (value, gradient) in enumerate(zip(node.inputs, answers, strict=True)):
            if value is None or not self._builder.wants(value) or gradient is ZERO:
                continue
            if gradient is None:
                raise self._builder.refuse(
                    f"it has no gradient with respect to input {index}, '{value.name}': give it a constant"
                )
            assert isinstance(gradient, ir.Value)
            self._builder.check(gradient, value)
            self.add(value, gradient)


def _one(builder: Builder, loss: ir.Value) -> ir.Value:
    """The gradient of a loss with respect to itself."""
    types = Types(builder.model)
    shape, dtype = types.shape(loss), types.of(loss)
    if dtype is None or not dtype.is_floating_point() or shape is None or any(size != 1 for size in shape):
        known = "no known shape" if shape is None else f"shape {list(shape)}"
        raise OnnxCbpError(
            f"the loss '{loss.name}' has type {dtype} and {known}: give a floating-point value with one element, or a "
            "gradient to begin with"
        )
    return builder.full(loss, 1)


def _checked(builder: Builder, value: ir.Value, seed: ir.Value) -> ir.Value:
    builder.check(seed, value)
    return seed


def _check_opset(model: ir.Model) -> None:
    opset = onnx_opset(model.opset_imports)
    if opset < OLDEST_OPSET:
        raise OnnxCbpError(
            f"gradients need opset {OLDEST_OPSET} or newer, the model imports opset {opset}: convert it with "
            "onnx.version_converter"
        )


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Everything that a node reads, including what its subgraphs read from the graph around them."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            graph = attribute.as_graph()
            for inner in RecursiveGraphIterator(graph):
                yield from (value for value in inner.inputs if value is not None)
            yield from graph.outputs
