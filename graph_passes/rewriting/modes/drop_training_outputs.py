"""Drops the training outputs of batch norms that do not train."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import ForwardSite, InferenceSite
from onnx_cbp.graph_passes.core.splice import Names, Splice, is_used
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects._reading import attribute


class DropTrainingOutputsPass(InPlacePass):
    """Every batch norm in inference form keeps only Y, so that ONNX Runtime loads the model.

    ONNX Runtime's evaluation models still have the training outputs of batch norms. If something reads one, it gets
    what
    inference form would give: the unchanged running mean and variance.

        mean = Identity(running_mean)      for the updated and the saved mean
        var = Identity(running_var)        for the updated and the saved variance

    If the graph computes the mean and var of an op from its own batch, readers get these, since it normalises with
    them.

    With `evaluation`, all this holds for batch norms that train, too: in opsets 7 to 13 only the outputs make them
    train, and ONNX Runtime leaves the outputs in its evaluation models.
    """

    def __init__(self, *, evaluation: bool = False) -> None:
        super().__init__()
        self._evaluation = evaluation

    def call(self, model: ir.Model) -> PassResult:
        """Repair the model in place."""
        names, types, opset = Names(model), Types(model), onnx_opset(model.opset_imports)
        modified = False
        for site in find_sites(model):
            if isinstance(site, InferenceSite) and site.superfluous:
                _drop(site, site.mean, site.var, names, types)
                modified = True
            elif isinstance(site, ForwardSite) and _is_in_inference_form(site.node, opset):
                # The graph computes its mean and var from the batch: it is a batch norm that trains after all.
                mean, var = site.node.inputs[3], site.node.inputs[4]
                if len(site.node.outputs) > 1 and mean is not None and var is not None:
                    _drop(site, mean, var, names, types)
                    modified = True
            elif isinstance(site, ForwardSite) and self._evaluation:
                if site.running_mean is None or site.running_var is None:
                    continue  # it always normalises with the batch
                _drop(site, site.running_mean, site.running_var, names, types)
                modified = True
        return PassResult(model, modified)


def _is_in_inference_form(node: ir.Node, opset: int) -> bool:
    is_one = (node.domain, node.op_type) == ("", "BatchNormalization") and len(node.inputs) == _INPUTS
    return is_one and opset >= _TRAINING_MODE_SINCE and not attribute(node, "training_mode", 0)


_INPUTS = 5
_TRAINING_MODE_SINCE = 14


def _drop(site: ForwardSite | InferenceSite, mean: ir.Value, var: ir.Value, names: Names, types: Types) -> None:
    node = site.node
    splice = Splice(node, names, types)
    (Y,) = splice.add(node.op_type, node.inputs, (("Y", site.Y.dtype, site.Y.shape),), domain=node.domain)
    kept = Y.producer()
    assert kept is not None
    kept.attributes.update({name: value for name, value in node.attributes.items() if name != "training_mode"})
    kept.name, node.name = node.name, None
    splice.hand_over(site.Y, Y)
    # In every opset: mean, var, saved mean, saved var.
    for index, output in enumerate(node.outputs[1:]):
        if is_used(output):
            source = mean if index % 2 == 0 else var
            (copy,) = splice.add("Identity", (source,), ((f"output{index + 1}", types.of(source), source.shape),))
            splice.hand_over(output, copy)
    splice.commit()
