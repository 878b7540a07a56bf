"""Writes batch norms that train as ONNX Runtime's gradient builder does, so that `rewrite` knows both directions."""

from __future__ import annotations

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
    """Every BatchNormalization that trains becomes the op whose gradient is an op, too.

        Y, updated_mean, updated_var, saved_mean, saved_inv_std = BatchNormInternal(X, scale, B, mean, var)
        dX, scale_grad, bias_grad = BatchNormalizationGrad(dY, X, scale, saved_mean, saved_inv_std)

    Both are of com.microsoft. They do not stay: run `rewrite` on the graph with its gradients, with whatever options.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite in place."""
        names, types = Names(model), Types(model)
        modified = False
        for site in find_sites(model):
            node = site.node
            if not isinstance(site, ForwardSite) or (node.domain, node.op_type) != ("", "BatchNormalization"):
                continue
            mean, var = node.inputs[3:5]  # also those that the graph makes of the batch, which are no running ones
            if mean is None or var is None or any(map(is_used, node.outputs[3:])):
                continue
            splice = Splice(node, names, types)
            X, scale = site.X, site.scale
            vector = (types.of(scale), scale.shape)
            statistics = (types.of(mean), mean.shape)
            results = splice.add(
                "BatchNormInternal",
                node.inputs,
                (
                    ("Y", site.Y.dtype or types.of(X), site.Y.shape or X.shape),
                    ("updated_mean", *statistics),
                    ("updated_var", *statistics),
                    ("saved_mean", *vector),
                    ("saved_inv_std", *vector),
                ),
                {"epsilon": site.epsilon, "momentum": site.momentum, "training_mode": 1},
                domain=DOMAIN,
            )
            for old, new in zip((site.Y, site.updated_mean, site.updated_var), results, strict=False):
                splice.hand_over(old, new)
            name, maker = label(node), results[0].producer()
            splice.commit()
            assert maker is not None
            maker.name = name  # by which options of `rewrite` choose it
            modified = True
        if modified:
            model.opset_imports[DOMAIN] = 1
        return PassResult(model, modified)


@rule("BatchNormInternal", domain=DOMAIN)
def batch_norm(g: Builder, node: ir.Node, dY: ir.Value, *_: ir.Value | None) -> list[InputGradient]:
    """See the pass; statistics are given, not differentiated."""
    X, scale = node.inputs[:2]
    assert X is not None
    assert scale is not None
    outputs = g.ops("BatchNormalizationGrad", dY, X, scale, *node.outputs[3:5], outputs=3, domain=DOMAIN)
    for gradient, value in zip(outputs, (X, scale, scale), strict=True):
        g.let_be_like(gradient, value)
    if not g.wants(X):
        outputs[0].name = ""  # nobody asks for it
        return [ZERO, *outputs[1:], ZERO, ZERO]
    return [*outputs, ZERO, ZERO]
