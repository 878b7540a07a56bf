"""Makes the loss that of the batch of all replicas, and the gradient that seeds the backward pass with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.dialects import Reduction, is_gradient_accumulator, is_loss_gradient, reduction
from onnx_cbp.graph_passes.scopes import import_domain
from onnx_cbp.graph_passes.sites import label
from onnx_cbp.graph_passes.splice import Draft, Names, inherit
from onnx_cbp.graph_passes.synchronize import WORLD
from onnx_cbp.graph_passes.types import Types

#: What may stand between the reductions and the loss: their gradients are right wherever the values are.
_BETWEEN = {"Add", "Cast", "Div", "Exp", "Identity", "Log", "Mul", "Neg", "Reshape", "Sqrt", "Squeeze", "Sub", "Sum"}
_MEND = "data_parallel needs a loss that is made of ReduceMean, ReduceSum or SoftmaxCrossEntropyLoss of a whole batch"


class WholeBatchLossPass(InPlacePass):
    """A loss is a function of reductions over the batch, such as a mean. Each becomes that of all replicas' samples.

        sums = AllReduceBucket([loss_r * n_r, n_r])         n_r: its denominator on replica r, such as a count of labels
        loss = sums[0] / sums[1]

    and the gradient that enters it on its way back is multiplied by n_r / sums[1]. The gradients of all replicas then
    add up to that of the whole batch. Scaling them at the end instead would be wrong with synchronised batch norms and
    shards of unequal size: they mix the gradients of all replicas on the way.

    Sums, whose gradients need no factor, are added up alone. One message of doubles carries all reductions of the loss,
    so counts are exact. Replicas whose every label is ignored have n_r = 0.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place.

        Raises:
            OnnxCbpError: the loss cannot be told, or is none that is made of reductions; one line that says which node.
        """
        loss = _loss(model.graph)
        if _is_done(loss):
            return PassResult(model, modified=False)
        terms = [_with_one_gradient(_counted(term, model.graph), model.graph) for term in _terms(loss, model.graph)]
        _refuse_other_losses(model.graph, terms)
        names, types = Names(model), Types(model)
        draft = Draft("loss", names, types)
        packed = [piece for term in terms for piece in _pieces(term, draft, types)]
        (bucket,) = draft.add("Concat", packed, (("sums", ir.DataType.DOUBLE, ir.Shape((len(packed),))),), {"axis": 0})
        (sums,) = draft.channel_op(
            "AllReduceBucket",
            (bucket,),
            (("whole_sums", ir.DataType.DOUBLE, bucket.shape),),
            group=WORLD,
            reduction="sum",
            layer=" and ".join(label(term.node) for term in terms),
        )
        own = set(draft.nodes)
        position = 0
        for term in terms:
            n = None
            if term.mean:
                n = packed[position + 1]
            _finish(term, sums, position, n, own, draft, names, types)
            position += 1 if n is None else 2
        model.graph.insert_after(terms[-1].node, draft.nodes)
        model.graph.sort()  # backward nodes that did not wait for the loss stood before it
        import_domain(model)
        return PassResult(model, modified=True)


def _loss(graph: ir.Graph) -> ir.Value:
    """The loss: the first output of a training graph."""
    if not any(is_gradient_accumulator(node) for node in graph):
        raise OnnxCbpError(
            "data_parallel needs ONNX Runtime training artifacts, and this model has no gradient accumulators "
            "(InPlaceAccumulatorV2 with the reset flag of the training API)"
        )
    loss = next(iter(graph.outputs), None)
    if loss is None or loss.producer() is None:
        raise OnnxCbpError("data_parallel: the model's first output is to be the loss, and no node makes it")
    return loss


def _is_done(loss: ir.Value) -> bool:
    """Whether a bucket is behind the loss already."""
    return any(node.domain == DOMAIN and node.op_type == "AllReduceBucket" for node in _behind([loss], _BETWEEN_DONE))


_BETWEEN_DONE = _BETWEEN | {"Gather"}


def _behind(values: list[ir.Value], op_types: set[str] | None = None) -> Iterator[ir.Node]:
    """The nodes that values are made of; the search goes on through those of the op types only, if there are any."""
    seen: set[ir.Node] = set()
    todo = [value.producer() for value in values]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if op_types is None or (node.domain == "" and node.op_type in op_types):
            todo += [value.producer() for value in node.inputs if value is not None]


def _terms(loss: ir.Value, graph: ir.Graph) -> list[Reduction]:
    """The reductions that the loss is a function of, in the order of the graph."""
    found: dict[ir.Node, Reduction] = {}
    seen: set[ir.Value] = set()
    todo = [(loss, "")]
    while todo:
        value, reader = todo.pop()
        if value in seen or ir.convenience.get_const_tensor(value) is not None:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            raise OnnxCbpError(f"node '{reader}': the loss depends on '{value.name}' as it is; {_MEND}")
        term = reduction(node)
        if isinstance(term, str):
            raise OnnxCbpError(f"node '{label(node)}' ({node.op_type}) makes the loss: {term}; {_MEND}")
        if term is not None:
            found[node] = term
        elif node.domain == "" and node.op_type in _BETWEEN and node.graph is graph:
            operands = node.inputs[:1] if node.op_type in ("Reshape", "Squeeze") else node.inputs
            todo += [(operand, label(node)) for operand in operands if operand is not None]
        else:
            raise OnnxCbpError(f"node '{label(node)}' ({node.op_type}) makes the loss: {_MEND}")
    if not found:
        raise OnnxCbpError(f"the loss '{loss.name}' is a constant: {_MEND}")
    return [found[node] for node in graph if node in found]


def _counted(term: Reduction, graph: ir.Graph) -> Reduction:
    """A sum that no sample has a part in, such as a penalty on weights, is the same on all replicas: take the mean."""
    if term.mean or _read(term.node) & _samples(graph):
        return term
    return replace(term, mean=True, elements=None, labels=None)


def _read(node: ir.Node) -> set[ir.Value]:
    """The graph's inputs that a node's results are made of, and constants."""
    made = [node, *_behind([value for value in node.inputs if value is not None])]
    return {value for each in made for value in each.inputs if value is not None and value.producer() is None}


def _samples(graph: ir.Graph) -> set[ir.Value]:
    """The graph's inputs that are other values on each replica: neither parameters nor what a batch has one of."""
    trained = _trained(graph)
    inputs = [value for value in graph.inputs if value not in trained]  # a frozen parameter is told by its shape
    of_any_size = {value for value in inputs if value.shape is None or not value.shape.is_static()}
    return of_any_size or set(inputs)


def _trained(graph: ir.Graph) -> set[ir.Value]:
    """The parameters with a gradient. The training API, too, knows their buffers by these names only."""
    names = {value.name for value in graph.inputs}
    return {value for value in graph.inputs if f"{value.name}_grad.accumulation.buffer" in names}


def _with_one_gradient(term: Reduction, graph: ir.Graph) -> Reduction:
    """Check that the gradient which is to be scaled is known."""
    if not term.mean or len(term.gradients) == 1:
        return term
    if not _read(term.node) & _trained(graph):
        return replace(term, gradients=())
    how = "no node" if not term.gradients else f"{len(term.gradients)} nodes"
    raise OnnxCbpError(
        f"node '{label(term.node)}' ({term.node.op_type}) makes the loss, and {how} can be told to be its "
        "gradient: data_parallel needs the graph as ONNX Runtime's gradient builder leaves it"
    )


def _refuse_other_losses(graph: ir.Graph, terms: list[Reduction]) -> None:
    known = {node for term in terms for node, _ in term.gradients}
    for node in graph:
        if is_loss_gradient(node) and node not in known:
            raise OnnxCbpError(
                f"node '{label(node)}' ({node.op_type}) is the gradient of a loss that the first output "
                f"'{graph.outputs[0].name}' is not made of: data_parallel scales that of the first output only"
            )
    if not all(term.mean for term in terms):
        return  # the gradient of a sum begins anywhere
    scaled = _after(known)
    for node in graph:
        if is_gradient_accumulator(node) and node not in scaled:
            raise OnnxCbpError(
                f"node '{label(node)}' accumulates a gradient that does not come from the loss, the first output "
                f"'{graph.outputs[0].name}': data_parallel cannot scale it"
            )


def _after(nodes: set[ir.Node]) -> set[ir.Node]:
    """The nodes, and all that read what they make."""
    found: set[ir.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [use.node for value in node.outputs for use in value.uses()]
    return found


def _vector(value: ir.Value, draft: Draft, suffix: str) -> ir.Value:
    """One value as double [1]."""
    one = ir.Shape((1,))
    shape = draft.constant(f"{suffix}_shape", ir.tensor(np.array([1], np.int64)))
    (flat,) = draft.add("Reshape", (value, shape), ((f"{suffix}_vector", value.dtype, one),))
    return draft.cast(flat, ir.DataType.DOUBLE, f"{suffix}_double")


def _pieces(term: Reduction, draft: Draft, types: Types) -> list[ir.Value]:
    """What a reduction adds to the message: its sum, and its denominator if it has one."""
    value = _vector(term.node.outputs[0], draft, "own")
    if not term.mean:
        return [value]
    n = _denominator(term, draft, types)
    (total,) = draft.add("Mul", (value, n), (("own_sum", ir.DataType.DOUBLE, ir.Shape((1,))),))
    return [total, n]


def _denominator(term: Reduction, draft: Draft, types: Types) -> ir.Value:
    """What the mean was divided by, as double [1]."""
    if term.labels is not None and (term.ignore_index is not None or term.weights is not None):
        return _vector(_weigh_labels(term, term.labels, draft, types), draft, "n")
    counted = term.elements if term.labels is None else term.labels
    if counted is None:
        return draft.constant("n", ir.tensor(np.array([1.0])))
    (size,) = draft.add("Size", (counted,), (("size", ir.DataType.INT64, ir.Shape(())),))
    return _vector(size, draft, "n")


def _weigh_labels(term: Reduction, labels: ir.Value, draft: Draft, types: Types) -> ir.Value:
    """The number, or the weights, of the labels that are not ignored."""
    kind = types.of(labels) or ir.DataType.INT64
    counts: ir.Value | None = None
    if term.ignore_index is not None:
        ignored = draft.constant("ignore_index", ir.tensor(np.array(term.ignore_index, kind.numpy())))
        (is_ignored,) = draft.add("Equal", (labels, ignored), (("is_ignored", ir.DataType.BOOL, labels.shape),))
        (is_counted,) = draft.add("Not", (is_ignored,), (("is_counted", ir.DataType.BOOL, labels.shape),))
        counts = draft.cast(is_counted, ir.DataType.DOUBLE, "counted")
        if term.weights is not None:  # an ignored label need not be a class
            zero = draft.constant("any_class", ir.tensor(np.array(0, kind.numpy())))
            (labels,) = draft.add("Where", (is_ignored, zero, labels), (("classes", kind, labels.shape),))
    if term.weights is not None:
        (weights,) = draft.add(
            "Gather", (term.weights, labels), (("weights", types.of(term.weights), labels.shape),), {"axis": 0}
        )
        weights = draft.cast(weights, ir.DataType.DOUBLE, "weights_double")
        if counts is not None:
            (weights,) = draft.add("Mul", (weights, counts), (("weighted", ir.DataType.DOUBLE, labels.shape),))
        counts = weights
    assert counts is not None
    return draft.add("ReduceSum", (counts,), (("n", ir.DataType.DOUBLE, ir.Shape(())),), {"keepdims": 0})[0]


def _finish(
    term: Reduction,
    sums: ir.Value,
    position: int,
    n: ir.Value | None,
    own: set[ir.Node],
    draft: Draft,
    names: Names,
    types: Types,
) -> None:
    """Let the sums over all replicas take the place of the reduction's value, and scale its gradient."""
    old = term.node.outputs[0]
    dtype = types.of(old) or ir.DataType.FLOAT
    vector = (ir.DataType.DOUBLE, ir.Shape((1,)))
    whole = _element(sums, position, "whole_sum", draft)
    if n is not None:
        every = _element(sums, position + 1, "whole_n", draft)
        # Where nothing counts on any replica, the sum is 0 too, and ONNX Runtime's own loss is 0.
        zero, one = (draft.constant(f"{x}", ir.tensor(np.array([x]))) for x in (0.0, 1.0))
        (is_nothing,) = draft.add("Equal", (every, zero), (("is_nothing", ir.DataType.BOOL, ir.Shape((1,))),))
        (divisor,) = draft.add("Where", (is_nothing, one, every), (("divisor", *vector),))
        (whole,) = draft.add("Div", (whole, divisor), (("whole_mean", *vector),))
        (share,) = draft.add("Div", (n, divisor), (("share", *vector),))
        for node, index in term.gradients:
            _scale(node, index, share, dtype, draft, types)
    narrow = draft.cast(whole, dtype, "whole_as_before")
    (shape,) = draft.add("Shape", (old,), (("shape", ir.DataType.INT64, None),))
    (new,) = draft.add("Reshape", (narrow, shape), (("whole", dtype, old.shape),))
    made = own | set(draft.nodes)
    kept = [(use.node, use.idx) for use in old.uses() if use.node in made]
    inherit(old, new)
    for node, index in kept:
        node.replace_input_with(index, old)
    name = old.name
    old.name = names.fresh(f"{label(term.node)}/own")
    new.name = name


def _element(sums: ir.Value, position: int, suffix: str, draft: Draft) -> ir.Value:
    index = draft.constant(f"{suffix}_index", ir.tensor(np.array([position], np.int64)))
    return draft.add("Gather", (sums, index), ((suffix, sums.dtype, ir.Shape((1,))),), {"axis": 0})[0]


def _scale(node: ir.Node, index: int, share: ir.Value, dtype: ir.DataType, draft: Draft, types: Types) -> None:
    """Multiply the gradient that a node reads by this replica's share of the whole batch."""
    gradient = node.inputs[index]
    assert gradient is not None
    dtype = types.of(gradient) or dtype
    scalar = draft.constant("scalar_shape", ir.tensor(np.array([], np.int64)))
    (factor,) = draft.add("Reshape", (share, scalar), (("share_scalar", share.dtype, ir.Shape(())),))
    factor = draft.cast(factor, dtype, "share_as_gradient")
    (scaled,) = draft.add("Mul", (gradient, factor), (("scaled_seed", dtype, gradient.shape),))
    node.replace_input_with(index, scaled)
