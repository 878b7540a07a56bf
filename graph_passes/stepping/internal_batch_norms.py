"""Writes batch norms that train as ONNX Runtime's gradient builder does, so `rewrite` knows both directions."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.sites import ForwardSite, label
from onnx_cbp.graph_passes.core.splice import Names, Splice, is_used
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects.ort_training import DOMAIN
from onnx_cbp.graph_passes.differentiating.builder import Builder
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule


class InternalBatchNormsPass(InPlacePass):
    """Replaces every batch norm that trains, as ONNX's op or in arithmetic, by an op whose gradient is also one op.

        Y, updated_mean, updated_var, saved_mean, saved_inv_std = BatchNormInternal(X, scale, B, mean, var)
        dX, scale_grad, bias_grad = BatchNormalizationGrad(dY, X, scale, saved_mean, saved_inv_std)

    Both ops are of com.microsoft. A batch norm in arithmetic has no running statistics, so mean and var are left out;
    if its channels are not at axis 1, Transposes move them there. If something else in the graph reads its statistics,
    gradients must pass them too, and it stays as it is.

    These ops are temporary: run `rewrite` on the graph with its gradients, with any options.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite in place."""
        names, types = Names(model), Types(model)
        modified = False
        for site in find_sites(model):
            node = site.node
            if not isinstance(site, ForwardSite) or node.domain != "":
                continue
            if node.op_type == "BatchNormalization":
                running = node.inputs[3:5]  # or, if the graph computes them from the batch, no running ones
                if None in running or any(map(is_used, node.outputs[3:])):
                    continue
            else:
                running = (None, None)
                if is_used(site.saved_mean) or is_used(site.saved_var):
                    continue
            if _replace(site, running, names, types):
                modified = True
        if modified:
            model.opset_imports[DOMAIN] = 1
        return PassResult(model, modified)


def _replace(site: ForwardSite, running: Sequence[ir.Value | None], names: Names, types: Types) -> bool:
    splice = Splice(site.node, names, types)
    X, scale = site.X, site.scale
    given = types.shape(X)
    there = back = None
    if given is None:
        if site.axis != 1:
            return False
    elif len(given) < 2:
        return False
    elif site.axis % len(given) != 1:
        axis, axes = site.axis % len(given), list(range(len(given)))
        there = [0, axis, *(each for each in axes[1:] if each != axis)]
        back = [there.index(each) for each in axes]
        shape = ir.Shape([given[each] for each in there])
        (X,) = splice.add("Transpose", (X,), (("channels_first", types.of(X), shape),), {"perm": there})
    vector = (types.of(scale), scale.shape)
    statistics = vector if running[0] is None else (types.of(running[0]), running[0].shape)
    results = splice.add(
        "BatchNormInternal",
        (X, scale, site.B, *running),
        (
            ("Y", site.Y.dtype or types.of(X), X.shape if there else site.Y.shape or X.shape),
            ("updated_mean", *statistics),
            ("updated_var", *statistics),
            ("saved_mean", *vector),
            ("saved_inv_std", *vector),
        ),
        {"epsilon": site.epsilon, "momentum": site.momentum, "training_mode": 1},
        domain=DOMAIN,
    )
    Y, maker = results[0], results[0].producer()
    if back is not None:
        (Y,) = splice.add("Transpose", (Y,), (("channels_back", Y.dtype, site.X.shape),), {"perm": back})
    splice.hand_over(site.Y, Y)
    if running[0] is not None:
        for old, new in zip((site.updated_mean, site.updated_var), results[1:3], strict=True):
            splice.hand_over(old, new)
    name = label(site.node)
    splice.commit(site.interior)
    assert maker is not None
    maker.name = name  # options of `rewrite` choose it by this name
    return True


@rule("BatchNormInternal", domain=DOMAIN)
def batch_norm(g: Builder, node: ir.Node, dY: ir.Value, *_: ir.Value | None) -> list[InputGradient]:
    """BatchNormInternal: BatchNormalizationGrad, see the pass; statistics have no gradient."""
    X, scale = node.inputs[:2]
    assert X is not None
    assert scale is not None
    outputs = g.ops("BatchNormalizationGrad", dY, X, scale, *node.outputs[3:5], outputs=3, domain=DOMAIN)
    for gradient, value in zip(outputs, (X, scale, scale), strict=True):
        g.let_be_like(gradient, value)
    if not g.wants(X):
        outputs[0].name = ""  # not wanted
        return [ZERO, *outputs[1:], ZERO, ZERO]
    return [*outputs, ZERO, ZERO]
