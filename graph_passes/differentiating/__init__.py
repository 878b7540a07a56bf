"""Gradients of any forward graph, as nodes of ONNX's own ops and ours.

The contract:

    differentiate(model, loss, values) -> the gradient of the loss with respect to each value, or None

appends nodes to `model` (an onnx-ir model) and gives values of its graph; `DifferentiatePass` does the same by names
and makes the gradients outputs. Nothing is changed where it raises. `loss` has one element; a mapping of values to
their gradients, {Y: dY}, in its place gives a vector-Jacobian product, and results can be differentiated once more.

- Opset 13 and newer; types and ranks must be known or be inferred; the batch may be symbolic, and is never traced.
- Initializers that are added are named "gradient/constant..."; list the parameters before.
- An op is differentiated by its rule (`registry.py`, `rules/`, one file a family), otherwise by its body: the
  model-local function, or the one in ONNX's specification, which then stands in the op's place.
- Batch norms that train are best made ours first (`ReplaceForwardPass`): their gradient then reads what the forward
  pass has saved, and does not take the statistics once more.
- A rule is `rule(builder, node, *output gradients) -> input gradients`; `builder.py` is what it writes with.
"""

from onnx_cbp.graph_passes.differentiating.differentiate import differentiate
from onnx_cbp.graph_passes.differentiating.gradients_pass import DifferentiatePass

__all__ = ["DifferentiatePass", "differentiate"]
