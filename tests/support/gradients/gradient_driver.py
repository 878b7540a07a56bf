"""What a gradient rule is held against: differences of the op itself, in double."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from onnx_cbp.custom_ops import DOMAIN, OPERATORS, Operator
from onnx_cbp.custom_ops.operator import AXIS_OF_OUTPUTS
from onnx_cbp.custom_ops.references import OP_RUNS
from onnx_cbp.custom_ops.windows import windows_of
from onnx_cbp.graph_passes import AttachFunctionsPass
from onnx_cbp.graph_passes.differentiating import differentiate
from support.gradients.exact_ops import EXACT_OPS
from support.gradients.gradient_cases import Case, In

Arrays = dict[str, np.ndarray]
_STEP = 1e-5
_FEW = 16
_DIRECTIONS = 10
#: Where gradients of the same model have been looked at closely: whatever else is wrong there is seen in any direction.
_AT_A_GLANCE = 3
_NUMBERS = {
    np.float64: onnx.TensorProto.DOUBLE,
    np.float32: onnx.TensorProto.FLOAT,
    np.float16: onnx.TensorProto.FLOAT16,
}


def newest_opset() -> int:
    """The newest opset that onnx and ONNX Runtime both know."""
    for opset in range(onnx.defs.onnx_opset_version(), 13, -1):
        x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "newest", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        with contextlib.suppress(ort_errors.Fail, ort_errors.InvalidArgument):
            runner(model, "onnxruntime")
            return opset
    raise AssertionError("ONNX Runtime knows no opset that onnx knows")


def forward_model(case: Case, opset: int, dtype: type = np.float64) -> onnx.ModelProto:
    """The op alone, with data of one type."""
    dtype = np.float32 if case.single else dtype
    inputs, constants, names = [], [], []
    for index, each in enumerate(case.inputs):
        name = f"x{index}" if each is not None else ""
        names.append(name)
        if isinstance(each, In):
            inputs.append(helper.make_tensor_value_info(name, _NUMBERS[dtype], each.shape))
        elif each is not None:
            wide = each.dtype == np.float64
            constants.append(onnx.numpy_helper.from_array(each.astype(dtype) if wide else each, name))
    outputs = [f"y{index}" for index in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, name="node", domain=case.domain, **case.attributes)
    infos = [onnx.ValueInfoProto(name=name) for name in outputs]
    if case.op == "GroupNormalization":  # onnx infers nothing for it
        infos = [helper.make_tensor_value_info("y0", _NUMBERS[dtype], case.inputs[0].shape)]
    if case.domain == DOMAIN:
        infos = _ours(case, dtype)
    graph = helper.make_graph([node], "case", inputs, infos, constants)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(case.domain, 1)] if case.domain else [])]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = min(model.ir_version, 8 if opset < 18 else 9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=not case.domain, data_prop=True)


def _of_windows(operator: Operator, case: Case) -> dict[str, tuple[int | str, ...]]:
    """The shapes of what a convolution makes; its batch has the name of that of its data."""
    (batch, *data), other = (each.shape for each in case.inputs)
    axis = AXIS_OF_OUTPUTS.get(operator.inputs[1].shape)
    outputs = None if axis is None else int(other[axis])
    windows = windows_of((1, *map(int, data)), other, case.attributes, outputs=outputs)
    return {
        **dict.fromkeys(("windows", "outputs"), (batch, *windows.result_shape[1:])),
        **dict.fromkeys(("kernel", "weight"), windows.weight_shape),
    }


def _ours(case: Case, dtype: type) -> list[onnx.ValueInfoProto]:
    """The outputs of an op of ours, by its description."""
    operator = OPERATORS[case.op]
    shapes = {each.shape: given.shape for each, given in zip(operator.inputs, case.inputs, strict=True)}
    shapes.setdefault("C", shapes.get("RC", (0, 3))[-1:] if "X" not in shapes else (3,))
    if operator.has_windows:
        shapes |= _of_windows(operator, case)
    return [
        helper.make_tensor_value_info(
            f"y{i}", onnx.TensorProto.INT64 if each.type == "int64" else _NUMBERS[dtype], shapes.get(each.shape, ())
        )
        for i, each in enumerate(operator.outputs)
    ]


def with_gradients(
    model: onnx.ModelProto, seeded: tuple[int, ...], names: list[str], *, seed: str = "dy", some_are_zero: bool = False
) -> onnx.ModelProto:
    """The model with a gradient dy of each seeded output as an input, and those of the named inputs as its outputs."""
    result = ir.from_proto(model)
    graph = result.graph
    seeds = {}
    for index in seeded:
        Y = graph.outputs[index]
        seeds[Y] = ir.Value(name=f"{seed}{index}", type=Y.type, shape=Y.shape)
    gradients = differentiate(result, seeds, [v for v in graph.inputs if v.name in names])
    graph.inputs.extend(seeds.values())
    graph.outputs.clear()
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None and some_are_zero:
            continue
        assert gradient is not None, name
        output = ir.Value(
            name=f"{name}_grad" if seed == "dy" else f"{name}_grad_{seed}", type=gradient.type, shape=gradient.shape
        )
        graph.append(ir.node("Identity", [gradient], outputs=[output]))
        graph.outputs.append(output)
    proto = ir.to_proto(result)
    if not any(node.op_type == "GroupNormalization" for node in proto.graph.node) or proto.opset_import[0].version > 20:
        # onnx has withdrawn the older form, and ONNX Runtime runs it
        onnx.checker.check_model(proto, full_check=not any(node.domain for node in proto.graph.node))
    return proto


def feeds_of(case: Case, batch: int, seed: int) -> Arrays:
    """Random data; sizes that are not fixed are `batch`, and 1 more than it for "M", and 1 for "K"."""
    rng = np.random.default_rng(seed)
    sizes = {"N": batch, "M": batch + 1, "K": 1}
    feeds = {}
    for index, each in enumerate(case.inputs):
        if isinstance(each, In):
            shape = [size if isinstance(size, int) else sizes[size] for size in each.shape]
            data = rng.uniform(each.low, each.high, shape)
            if each.apart:
                steps = rng.permutation(data.size).reshape(shape)
                data = each.low + (each.high - each.low) * (steps + 0.4) / data.size
            feeds[f"x{index}"] = np.asarray(data)
    return feeds


def runner(model: onnx.ModelProto, backend: str, *, keeps_float: bool = True) -> Callable[[Arrays], list[np.ndarray]]:
    """Run a model on "reference" or "onnxruntime"."""
    if backend == "reference":
        # It computes in double what is declared as float, but constants and casts.
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and not keeps_float:
                wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
                tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
        casts = [a for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"]
        for to in casts:
            if to.i == onnx.TensorProto.FLOAT and not keeps_float:
                to.i = onnx.TensorProto.DOUBLE
        evaluator = ReferenceEvaluator(model, new_ops=[*EXACT_OPS, *OP_RUNS])
        return lambda feeds: [np.asarray(each) for each in evaluator.run(None, feeds)]
    if any(node.domain == DOMAIN for node in model.graph.node):
        portable = ir.from_proto(model)
        AttachFunctionsPass()(portable)
        model = ir.to_proto(portable)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False  # ONNX Runtime 1.17 writes over the result of Shape in a second run
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def directions(shape: tuple[int, ...], *, glance: bool = False) -> np.ndarray:
    """Along what an input is moved: each element by itself where there are few, some random directions otherwise."""
    size = int(np.prod(shape))
    if size <= (_AT_A_GLANCE if glance else _FEW):
        return np.eye(size).reshape(size, *shape)
    return np.random.default_rng(size).normal(0, 0.5, (_AT_A_GLANCE if glance else _DIRECTIONS, *shape))


def differences(
    run: Callable[[Arrays], list[np.ndarray]], feeds: Arrays, seeds: Arrays, name: str, *, glance: bool = False
) -> np.ndarray:
    """How sum(dy * y) changes along each of an input's `directions`, by central differences."""
    result = []
    for direction in directions(feeds[name].shape, glance=glance):
        sides = []
        for step in (_STEP, -_STEP):
            outputs = run({**feeds, name: feeds[name] + step * direction})
            sides.append(sum(float((outputs[int(key[-1])] * dy).sum()) for key, dy in seeds.items()))
        result.append((sides[0] - sides[1]) / (2 * _STEP))
    return np.array(result)
