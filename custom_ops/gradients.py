"""Gradients of our forward ops, for the gradient builder of ONNX Runtime's training build."""

from __future__ import annotations

import json

from onnx_cbp.custom_ops.operator import DOMAIN

#: For each forward op, the inputs of its gradient: I(i) and O(i) are an input and an output of the forward op, GO(i) is
#: the gradient of an output. If the forward op has no inv_std, its var takes the place of 1 / sqrt(var + epsilon).
GRADIENTS = {
    "BatchNormTrainUpdate": ("GO(0)", "I(0)", "I(1)", "O(1)", "O(2)"),
    "BatchNormTrain": ("GO(0)", "I(0)", "I(1)", "O(1)", "O(2)"),
    "ChannelNormalize": ("GO(0)", "I(0)", "I(1)", "I(3)", "I(4)"),  # with statistics that are constants
}

#: The node that the builder writes: (domain, op type, its attribute, value). The builder drops the attributes of the
#: forward node, and leaves out outputs that nobody reads, which our ops do not allow. So it writes a placeholder: an op
#: that allows everything, and that nothing can run. `CompleteGradientsPass` replaces it by our op.
STAND_IN = ("org.pytorch.aten", "ATen", "operator", f"{DOMAIN}::BatchNormGrad")


def register_gradients() -> None:
    """Register the gradients with ONNX Runtime's gradient builder, in this process. Calling it twice is safe.

    Only our ops are concerned: for all others, the builder works as before.
    """
    from onnxruntime.capi import _pybind_state

    domain, stand_in, attribute, value = STAND_IN
    for op_type, inputs in GRADIENTS.items():
        operator = _pybind_state.GradientNodeAttributeDefinition()
        operator.name, operator.value_json, operator.dtype, operator.is_tensor = (
            attribute,
            json.dumps(value),
            "string",
            False,
        )
        definition = _pybind_state.GradientNodeDefinition()
        definition.op_type, definition.domain = stand_in, domain
        definition.inputs, definition.outputs = list(inputs), ["GI(0)", "GI(1)", "GI(2)"]
        definition.attributes = [operator]
        _pybind_state.register_gradient_definition(f"{DOMAIN}::{op_type}", [definition])
