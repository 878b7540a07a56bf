"""Small models in ONNX's textual syntax, as the passes meet them."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

#: A batch norm that trains, with its running statistics among the graph's outputs.
FORWARD = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta, float[3] mean, float[3] var)
    => (float[N, 3, H, W] y, float[3] new_mean, float[3] new_var)
{
    y, new_mean, new_var =
        BatchNormalization <epsilon: float = 0.001, momentum: float = 0.8, training_mode: int = 1>
            (x, gamma, beta, mean, var)
}
"""

#: The same in inference form, its running statistics constants of the graph.
INFERENCE = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, H, W] x) => (float[N, 3, H, W] y)
<float[3] gamma = {1.5, 0.5, -2.0}, float[3] beta = {0.5, 0.0, 1.0}, float[3] mean = {1.0, -2.0, 0.25},
 float[3] var = {0.5, 4.0, 1.0}>
{
    y = BatchNormalization <epsilon: float = 0.001, momentum: float = 0.8> (x, gamma, beta, mean, var)
}
"""

#: What ONNX Runtime's gradient builder makes of one batch norm: forward, backward and the accumulation of a gradient.
TRAINING = """
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta, float[3] running_mean, float[3] running_var,
        float[N, 3, H, W] y_grad)
    => (float[N, 3, H, W] y, float[N, 3, H, W] x_grad, float[3] gamma_grad, float[3] beta_grad)
{
    y, new_mean, new_var, saved_mean, saved_inv_std =
        com.microsoft.BatchNormInternal <epsilon: float = 0.001, momentum: float = 0.8, training_mode: int = 1>
            (x, gamma, beta, running_mean, running_var)
    x_grad, gamma_grad, beta_grad =
        com.microsoft.BatchNormalizationGrad <epsilon: float = 0.001> (y_grad, x, gamma, saved_mean, saved_inv_std)
}
"""


def parse(text: str) -> onnx.ModelProto:
    """A model from text, checked."""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def fresh_batch_norm(momentum: float, channels: int = 4) -> onnx.ModelProto:
    """A batch norm as a fresh model has it: scale 1, B 0, mean 0, var 1, all of them initializers; only Y goes out."""
    values = {"scale": 1.0, "B": 0.0, "mean": 0.0, "var": 1.0}
    node = helper.make_node(
        "BatchNormalization",
        ["x", *values],
        ["y", "new_mean", "new_var"],
        training_mode=1,
        momentum=momentum,
    )
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", channels, "L"]) for n in "xy")
    initializers = [
        numpy_helper.from_array(np.full(channels, value, np.float32), name) for name, value in values.items()
    ]
    return helper.make_model(
        helper.make_graph([node], "fresh", [x], [y], initializers),
        opset_imports=[helper.make_opsetid("", 15)],
        ir_version=8,
    )


def op_types(model: onnx.ModelProto) -> list[str]:
    """The op types of the main graph, in order."""
    return [node.op_type for node in model.graph.node]


def without_running_statistics(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose batch norms have one output: what ONNX Runtime runs, though ONNX's checker wants all three."""
    model = copy.deepcopy(model)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:]
    return model
