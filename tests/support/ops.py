"""One op at a time: inputs for it, a model of it, and every way there is to run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnx_cbp
from onnx_cbp.custom_ops import DOMAIN, OPERATORS, Operator
from onnx_cbp.custom_ops.functions import make_function
from onnx_cbp.custom_ops.operator import AXIS_OF_OUTPUTS
from onnx_cbp.custom_ops.python_ops import WITHOUT_PYTHON_OPS
from onnx_cbp.custom_ops.references import OP_RUNS
from onnx_cbp.custom_ops.windows import windows_of

NUMBERS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


#: Ops that have a function body; collectives have none.
WITH_BODIES = [name for name, operator in OPERATORS.items() if operator.body is not None]
#: Ops that run as CUDA kernels; collectives and dense convolutions do not.
WITH_CUDA_KERNELS = [
    name
    for name in WITH_BODIES
    if not any(t.shape in AXIS_OF_OUTPUTS for t in (*OPERATORS[name].inputs, *OPERATORS[name].outputs))
]
#: Ops that there are Python ops for.
WITH_PYTHON_OPS = [name for name in OPERATORS if name not in WITHOUT_PYTHON_OPS]


@dataclass(frozen=True)
class Case:
    """An op with inputs and attributes."""

    operator: Operator
    inputs: tuple[np.ndarray, ...]
    attributes: dict[str, Any]

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {t.name: v for t, v in zip(self.operator.inputs, self.inputs, strict=True)}

    def replace(self, **changes: np.ndarray) -> Case:
        """The case with some inputs exchanged."""
        feeds = {**self.feeds, **changes}
        return Case(self.operator, tuple(feeds.values()), self.attributes)


def make_case(
    name: str,
    shape: tuple[int, ...],
    *,
    axis: int = 1,
    data: str = "float32",
    statistics: str = "float32",
    seed: int = 0,
    X: np.ndarray | None = None,
    **attributes: Any,
) -> Case:
    """Random inputs for an op; the statistics given to it belong to X, as they do in a network."""
    operator = OPERATORS[name]
    if operator.has_windows:
        return _make_windows_case(operator, shape, axis=axis, data=data, seed=seed, X=X, **attributes)
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    U = DTYPES[statistics]
    X = rng.normal(3.0, 2.0, shape) if X is None else X
    X = X.astype(DTYPES[data])
    wide = X.astype(np.float64)
    others = tuple(i for i in range(X.ndim) if i != axis % X.ndim)
    count = int(np.prod([X.shape[i] for i in others]))
    with np.errstate(all="ignore"):
        mean = wide.sum(axis=others) / max(count, 1)
        var = np.square(wide - np.expand_dims(mean, others)).sum(axis=others) / max(count, 1)
    values = {
        "X": X,
        "dY": rng.normal(0.1, 1.0, shape).astype(DTYPES[data]),
        "scale": rng.normal(1.0, 0.5, channels).astype(U),
        "B": rng.normal(0.0, 0.5, channels).astype(U),
        "mean": mean.astype(U),
        "var": var.astype(U),
        "inv_std": (1.0 / np.sqrt(var + 1e-5)).astype(U),
        "scale_grad": rng.normal(0.0, 5.0, channels).astype(U),
        "bias_grad": rng.normal(0.0, 5.0, channels).astype(U),
        "count": np.array(count, np.int64),
        "Y": np.maximum(rng.normal(0.0, 1.0, shape), 0.0).astype(DTYPES[data]),
        "slope": rng.normal(1.0, 0.5, channels).astype(U),
        "offset": rng.normal(0.0, 0.5, channels).astype(U),
        "running_mean": rng.normal(0.0, 1.0, channels).astype(U),
        "running_var": rng.uniform(0.5, 2.0, channels).astype(U),
        "running": rng.normal(0.0, 1.0, channels).astype(U),
        "d_scale_grad": rng.normal(0.0, 2.0, channels).astype(U),
        "d_bias_grad": rng.normal(0.0, 2.0, channels).astype(U),
        "batch": rng.uniform(0.5, 2.0, channels).astype(U),
        "bucket": rng.normal(0.0, 1.0, channels).astype(U),
    }
    if name == "ChannelStatsMerge":  # the statistics of parts of different sizes, one of them empty
        parts = np.array([count, 0, 2 * count + 1], np.int64)
        values["mean"] = (mean + rng.normal(0.0, 1.0, (3, channels))).astype(U)
        values["var"] = (var + rng.uniform(0.0, 1.0, (3, channels))).astype(U)
        values["count"] = parts
    defaults = {a.name: a.default for a in operator.attributes}
    if "axis" in defaults:
        defaults["axis"] = axis
    if "stash_type" in defaults:
        defaults["stash_type"] = NUMBERS[statistics]
    defaults.update(attributes)
    return Case(operator, tuple(values[t.name] for t in operator.inputs), defaults)


def _make_windows_case(
    operator: Operator,
    shape: tuple[int, ...],
    *,
    axis: int,
    data: str,
    seed: int,
    X: np.ndarray | None = None,
    **attributes: Any,
) -> Case:
    """Random inputs for an op that is a convolution of X, or a gradient of one.

    Its channels are the second axis whatever the shape says, and it has one to three axes of space, none of them
    empty: others are joined, or put behind. What no attribute says, the shape decides.
    """
    sizes = list(shape) if X is None else list(X.shape)
    channels = sizes.pop(axis)
    batch, *space = sizes or [1]
    space = [max(1, size) for size in space] or [1]
    space = [int(np.prod(space[:-2])), *space[-2:]] if len(space) > 3 else space
    axes = len(space)
    rng = np.random.default_rng(seed)
    kind = (sum(shape) + seed) % 3
    defaults = {
        "kernel_shape": tuple(min(3, 2 + (size > 2) + (i == kind)) for i, size in enumerate(space)),
        "strides": tuple(1 + (kind == 1 and i % 2 == 0) for i in range(axes)),
        "pads": tuple(1 + (i >= axes and kind == 2) for i in range(2 * axes)),
        "dilations": tuple(1 + (kind == 2 and size > 5) for size in space),
    }
    defaults.update(attributes)
    values = rng.normal(1.0, 2.0, (batch, channels, *space)) if X is None else np.moveaxis(X, axis, 1)
    values = values.reshape(batch, channels, *space).astype(DTYPES[data])
    outputs = None if operator.name == "DepthwiseConvGradWeight" else channels + 2 * kind
    of_windows = windows_of(values.shape, (batch, channels * (1 + (kind == 0)), *space), defaults, outputs=outputs)
    shapes = {
        **dict.fromkeys(("windows", "outputs"), of_windows.result_shape),
        "weight": of_windows.weight_shape,
        "exchanged weight": of_windows.exchanged_shape,
    }
    other = rng.normal(0.1, 1.0, shapes[operator.inputs[1].shape]).astype(DTYPES[data])
    return Case(operator, (values, other), defaults)


def op_model(case: Case, *, opset: int = 17, bodies: bool = False) -> onnx.ModelProto:
    """A model of the one op. 16-bit tensors enter and leave as float: numpy cannot feed bfloat16 to ONNX Runtime."""
    operator = case.operator
    binding = operator.bind(case.inputs, case.attributes)
    nodes, inputs, outputs = [], [], []
    for t, value in zip(operator.inputs, case.inputs, strict=True):
        number = NUMBERS[value.dtype.name]
        wide = TensorProto.FLOAT if value.dtype.itemsize == 2 else number
        inputs.append(helper.make_tensor_value_info(t.name, wide, value.shape))
        nodes.append(helper.make_node("Cast", [t.name], [f"{t.name}_in"], to=number))
    nodes.append(
        helper.make_node(
            operator.name,
            [f"{t.name}_in" for t in operator.inputs],
            [f"{t.name}_out" for t in operator.outputs],
            name="the_node",
            domain=DOMAIN,
            **case.attributes,
        )
    )
    for t, dtype, shape in zip(operator.outputs, binding.output_dtypes, binding.output_shapes, strict=True):
        wide = TensorProto.FLOAT if dtype.itemsize == 2 else NUMBERS[dtype.name]
        outputs.append(helper.make_tensor_value_info(f"{t.name}_result", wide, shape))
        nodes.append(helper.make_node("Cast", [f"{t.name}_out"], [f"{t.name}_result"], to=wide))
    model = helper.make_model(
        helper.make_graph(nodes, operator.name, inputs, outputs),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)],
        ir_version=8,
    )
    if bodies:
        model.functions.append(make_function(operator, opset))
    return model


def feeds_of(case: Case) -> dict[str, np.ndarray]:
    """The inputs as the model of `op_model` takes them."""
    return {
        name: value.astype(np.float32) if value.dtype.itemsize == 2 else value for name, value in case.feeds.items()
    }


def session(model: onnx.ModelProto, backend: str | None, *, threads: int = 1, **options: Any) -> Any:
    """A session of a model with the ops of a backend (None: no library)."""
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.log_severity_level = 4  # errors are asserted on, not read
    for name, value in options.items():
        setattr(session_options, name, value)
    if backend is not None:
        onnx_cbp.register(session_options, backend)
    return ort.InferenceSession(model.SerializeToString(), session_options, providers=["CPUExecutionProvider"])


def run(case: Case, backend: str, *, threads: int = 1, opset: int = 17) -> list[np.ndarray]:
    """Run an op in ONNX Runtime: by a backend's ops, or ("bodies") by its function body without any library."""
    model = op_model(case, opset=opset, bodies=backend == "bodies")
    registered = None if backend == "bodies" else backend
    return session(model, registered, threads=threads).run(None, feeds_of(case))


def run_reference(case: Case, *, opset: int = 17) -> list[np.ndarray]:
    """Run an op in onnx's reference evaluator, with our OpRun."""
    model = op_model(case, opset=opset)
    results = ReferenceEvaluator(model, new_ops=OP_RUNS).run(None, feeds_of(case))
    return [np.asarray(value) for value in results]


def skip_where_types_are_refused(name: str, data: str, statistics: str) -> None:
    """Before 1.19, ONNX Runtime gives ChannelStats' results the first type that fits the input."""
    usual = "float64" if data == "float64" else "float32"
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    if version < (1, 19) and name == "ChannelStats" and statistics != usual:
        pytest.skip(f"onnxruntime {ort.__version__} cannot give statistics of {data} the type {statistics}")


def exact(case: Case) -> list[np.ndarray]:
    """The float64 oracle, not rounded."""
    return list(case.operator.evaluate(*case.inputs, **case.attributes))
