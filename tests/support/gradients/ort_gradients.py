"""The gradients of a case as ONNX Runtime's gradient builder has them. Needs the training build."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from onnx_cbp.graph_passes import SplitSquaresPass
from onnx_cbp.training.suiting import suit_builder
from support.gradients.gradient_cases import Case, In
from support.gradients.gradient_driver import Arrays, forward_model

#: Optional outputs that its builder cannot do without.
_OUTPUTS = {"Dropout": 2, "LayerNormalization": 3, "SoftmaxCrossEntropyLoss": 2}


class NoGradientError(Exception):
    """ONNX Runtime builds no gradient of a node, has no kernel for it, or the kernel fails."""


def names_of(case: Case) -> list[str]:
    """The inputs that a case is differentiated by."""
    return [f"x{index}" for index, each in enumerate(case.inputs) if isinstance(each, In) and each.gradient]


def builders_gradients(case: Case, *, suited: bool = False) -> Callable[[Arrays], Arrays]:
    """A function of data and of dy0, dy1, ... that gives the gradient of sum(dy y) by each input, in float.

    Args:
        case: of one op.
        suited: the graph goes through `suit_builder` first, as one of `generate_artifacts` does.

    Raises:
        NoGradientError: ONNX Runtime has none.
        OnnxCbpError: `suit_builder` refuses the op.
    """
    from onnxruntime.capi._pybind_state import GradientGraphBuilder, get_optimized_model

    names = names_of(case)
    model = _with_loss(case)
    if suited:
        prepared = ir.from_proto(model)
        suit_builder(prepared, names)
        SplitSquaresPass()(prepared)
        model = ir.to_proto(prepared)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        optimized = get_optimized_model(model.SerializeToString(), set(names), options)
        builder = GradientGraphBuilder(optimized, {"loss"}, set(names), "loss", options)
        builder.build()
        session = ort.InferenceSession(builder.get_model(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it raises whatever it likes
        raise NoGradientError(str(error)) from error
    read = [value.name for value in session.get_inputs()]
    made = [value.name for value in session.get_outputs()]

    def run(feeds: Arrays) -> Arrays:
        single = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in feeds.items() if n in read}
        try:
            results = dict(zip(made, session.run(None, single), strict=True))
        except Exception as error:
            raise NoGradientError(str(error)) from error
        return {name: results[f"{name}_grad"] for name in names}

    return run


def _with_loss(case: Case) -> onnx.ModelProto:
    outputs = max(case.outputs, _OUTPUTS.get(case.op, 0))
    model = forward_model(dataclasses.replace(case, outputs=outputs), case.since, np.float32)
    graph, loss = model.graph, ""
    made = {value.name: value for value in graph.output}

    def add(op_type: str, inputs: Sequence[str], name: str, **attributes: int) -> str:
        graph.node.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    for index in case.seeded:
        seed = graph.input.add()
        seed.CopyFrom(made[f"y{index}"])
        seed.name = f"dy{index}"
        product = add("Mul", [f"y{index}", seed.name], f"product{index}")
        part = add("ReduceSum", [product], f"sum{index}", keepdims=0)
        loss = add("Add", [loss, part], f"loss{index}") if loss else part
    add("Identity", [loss], "loss")
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("loss", onnx.TensorProto.FLOAT, []))
    return model
