"""Gradients of any forward graph, as nodes of ONNX's own ops and ours.

The contract:

    differentiate(model, loss, values) -> the gradient of the loss with respect to each value, or None

appends nodes to `model` (an onnx-ir model) and returns values of its graph. `DifferentiatePass` does the same by names,
and makes the gradients outputs. If it raises, nothing has changed. `loss` has one element. For a vector-Jacobian
product, give a mapping of values to their gradients, {Y: dY}, in its place. The results can be differentiated again.

- Opset 13 and newer. Types and ranks must be known, or inference must find them. The batch may be symbolic.
- New initializers are named "gradient/constant...": list the parameters before.
- An op is differentiated by its rule (`registry.py`, `rules/`, one file per family). An op without a rule is replaced
  by its body, which is then differentiated: the model-local function, or the function in ONNX's specification.
- Replace batch norms that train by ours first (`ReplaceForwardPass`): their gradient then reads what the forward pass
  has saved, and does not compute the statistics again.
- A rule is `rule(builder, node, *output gradients) -> input gradients`; with `builder.py` it writes nodes.
"""

from onnx_cbp.graph_passes.differentiating.differentiate import differentiate
from onnx_cbp.graph_passes.differentiating.gradients_pass import DifferentiatePass

__all__ = ["DifferentiatePass", "differentiate"]
