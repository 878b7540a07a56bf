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
    """Every batch norm in inference form keeps Y alone, so that ONNX Runtime loads the model.

    ONNX Runtime's evaluation models of batch norms have the training outputs still. Where something reads one, it gets
    what inference form leaves there: the running mean and variance as they are.

        mean = Identity(running_mean)      for the updated and the saved mean
        var = Identity(running_var)        for the updated and the saved variance

    One whose mean and var are made in the graph, of its own batch, gets these: it normalises by them.

    With `evaluation`, so does every batch norm that trains: of opset 7 to 13 it is the outputs that say so, and ONNX
    Runtime leaves them in its evaluation models.
    """

    def __init__(self, *, evaluation: bool = False) -> None:
        super().__init__()
        self._evaluation = evaluation

    def call(self, model: ir.Model) -> PassResult:
        """Mend the model in place."""
        names, types, opset = Names(model), Types(model), onnx_opset(model.opset_imports)
        modified = False
        for site in find_sites(model):
            if isinstance(site, InferenceSite) and site.superfluous:
                _drop(site, site.mean, site.var, names, types)
                modified = True
            elif isinstance(site, ForwardSite) and _is_in_inference_form(site.node, opset):
                # Its mean and var are made in the graph, of the batch: it is a batch norm that trains nevertheless.
                mean, var = site.node.inputs[3], site.node.inputs[4]
                if len(site.node.outputs) > 1 and mean is not None and var is not None:
                    _drop(site, mean, var, names, types)
                    modified = True
            elif isinstance(site, ForwardSite) and self._evaluation:
                if site.running_mean is None or site.running_var is None:
                    continue  # it normalises by the batch at all times
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
