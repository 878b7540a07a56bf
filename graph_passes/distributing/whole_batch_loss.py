"""Makes the loss that of the batch of all replicas, and so the gradient with which the backward pass begins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import foreign
from onnx_cbp.graph_passes.core.scopes import import_domain
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Draft, Names, inherit, short
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import Reduction
from onnx_cbp.graph_passes.distributing.denominator import denominator, vector
from onnx_cbp.graph_passes.distributing.loss_terms import loss_terms
from onnx_cbp.graph_passes.distributing.synchronize import WORLD


class WholeBatchLossPass(InPlacePass):
    """Turns each reduction in the loss, such as a mean over the batch, into that over all replicas' samples.

        sums = AllReduceBucket([loss_r * n_r, n_r])         n_r: its denominator on replica r, such as a count of labels
        loss = sums[0] / sums[1]

    and the gradient that enters it in the backward pass is multiplied by n_r / sums[1]. The gradients of all replicas
    then add up to that of the whole batch. Scaling them at the end instead would be wrong with synchronised batch norms
    and unequal shards, since these batch norms mix the gradients of all replicas on the way.

    Sums are only added up; their gradients need no factor. One message of doubles carries all reductions of the loss,
    so counts are exact. If all labels of a replica are ignored, its n_r is 0.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place.

        Raises:
            OnnxCbpError: the loss is not found, or is not computed from reductions; one line that names the node.
        """
        terms = loss_terms(model)
        if not terms:
            return PassResult(model, modified=False)
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
            layer=" and ".join(short(label(term.node)) for term in terms[:3]),
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
        with foreign("data_parallel: what the loss is made of depends on a gradient"):
            model.graph.sort()  # backward nodes that do not depend on the loss came before it
        import_domain(model)
        return PassResult(model, modified=True)


def add_over_replicas(model: ir.Model, sums: Sequence[ir.Value]) -> None:
    """Turn sums over the batch into sums over the batches of all replicas, for all readers, in one message.

    A loss that is computed from such sums is then that of the whole batch. The same holds for everything that gradients
    read from it: so the gradients of all replicas add up to that of the whole batch. A gradient of such a sum is made
    of sums alone, and so is the same on all replicas.

    Args:
        model: a graph with its gradients; it is changed in place.
        sums: values of the main graph of known shapes; those without a shape are scalars.
    """
    draft = Draft("loss", Names(model), Types(model))
    packed = [_flat(value, draft) for value in sums]
    sizes = [math.prod(_static_shape(value)) for value in sums]
    total = ir.Shape((sum(sizes),))
    bucket = packed[0]
    if len(packed) > 1:
        (bucket,) = draft.add("Concat", packed, (("sums", ir.DataType.DOUBLE, total),), {"axis": 0})
    (whole,) = draft.channel_op(
        "AllReduceBucket",
        (bucket,),
        (("whole_sums", ir.DataType.DOUBLE, total),),
        group=WORLD,
        reduction="sum",
        layer=short(sums[0].name or "loss"),
    )
    readers = [list(value.uses()) for value in sums]
    own = set(draft.nodes)
    start = 0
    for value, size, uses in zip(sums, sizes, readers, strict=True):
        part = _elements(whole, range(start, start + size), "whole", draft)
        start += size
        sizes_of_value = draft.constant("shape", ir.tensor(np.array(_static_shape(value), np.int64)))
        (shaped,) = draft.add(
            "Reshape", (part, sizes_of_value), (("as_shaped", ir.DataType.DOUBLE, ir.Shape(_static_shape(value))),)
        )
        new = draft.cast(shaped, value.dtype or ir.DataType.FLOAT, "as_before")
        for node, position in uses:
            if node not in own:
                node.replace_input_with(position, new)
    model.graph.extend(draft.nodes)
    model.graph.sort()
    import_domain(model)


def _static_shape(value: ir.Value) -> tuple[int, ...]:
    return () if value.shape is None else tuple(value.shape.numpy())


def _flat(value: ir.Value, draft: Draft) -> ir.Value:
    """All elements of a value, as doubles."""
    whole = ir.Shape((math.prod(_static_shape(value)),))
    shape = draft.constant("flat_shape", ir.tensor(np.array([-1], np.int64)))
    (flat,) = draft.add("Reshape", (value, shape), (("own_vector", value.dtype, whole),))
    return draft.cast(flat, ir.DataType.DOUBLE, "own_double")


def _pieces(term: Reduction, draft: Draft, types: Types) -> list[ir.Value]:
    """The contribution of a reduction to the message: its sum, and its denominator if it has one."""
    value = vector(term.node.outputs[0], draft, "own")
    if not term.mean:
        return [value]
    n = denominator(term, draft, types)
    (total,) = draft.add("Mul", (value, n), (("own_sum", ir.DataType.DOUBLE, ir.Shape((1,))),))
    return [total, n]


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
    """Replace the value of the reduction by the sums over all replicas, and scale its gradient."""
    old = term.node.outputs[0]
    dtype = types.of(old) or ir.DataType.FLOAT
    vector = (ir.DataType.DOUBLE, ir.Shape((1,)))
    whole = _element(sums, position, "whole_sum", draft)
    if n is not None:
        every = _element(sums, position + 1, "whole_n", draft)
        # If nothing counts on any replica, the sum is 0 too, and so is ONNX Runtime's own loss.
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
    return _elements(sums, range(position, position + 1), suffix, draft)


def _elements(sums: ir.Value, places: range, suffix: str, draft: Draft) -> ir.Value:
    indices = draft.constant(f"{suffix}_index", ir.tensor(np.array(places, np.int64)))
    return draft.add("Gather", (sums, indices), ((suffix, sums.dtype, ir.Shape((len(places),))),), {"axis": 0})[0]


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
