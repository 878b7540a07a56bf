"""A mutated model through the verbs of training; its gradients beside differences of the original's loss."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from fuzz.graphs import feeds
from fuzz.judging import Report, compare, run, tell, unshared
from onnx_cbp.graph_passes.differentiating.gradients_pass import DifferentiatePass
from onnx_cbp.graph_passes.stepping.training_graph import METADATA
from onnx_cbp.ir_models import read_model, to_ir, to_proto
from onnx_cbp.training import checkpoints, generate_artifacts, losses

Arrays = dict[str, np.ndarray]
#: These verbs take nearly as long as all others together, so that not every seed tries them.
_ONE_OF = 3
_LOSS = "fuzz_loss"
_LOSSES = ("CrossEntropyLoss", "MSELoss", "BCEWithLogitsLoss", "L1Loss", losses.CrossEntropyLoss(ignore_index=2**40))
#: A gradient may differ by this part of the sum of its terms.
_TOLERANCE = 0.05
#: And by this part of the loss: a gradient that is zero is what is left of terms that cancel each other.
_NOISE = 1e-4


@dataclass
class _Trained:
    """A training graph.

    Attributes:
        model: the graph.
        parameters: what it is fed as parameters.
        gradients: the outputs that are gradients of our loss, by parameter.
        updates: outputs that mean something else than in the original.
        comparable: whether it computes what the original does.
    """

    model: onnx.ModelProto
    parameters: Arrays = field(default_factory=dict)
    gradients: Mapping[str, str] = field(default_factory=dict)
    updates: Collection[str] = ()
    comparable: bool = True


def train(
    seed: int,
    model: onnx.ModelProto,
    data: Arrays | None,
    options: Mapping[str, Any],
    stage: Callable[[str], None],
    skipped: Collection[str],
    report: Report,
) -> None:
    """Try the verbs of training with one seed of three.

    Args:
        seed: of every choice.
        model: the mutated model.
        data: what it is fed; None: it does not run.
        options: some of `rewrite`'s.
        stage, skipped, report: as in `attempt`.
    """
    if seed % _ONE_OF:
        return
    rng = np.random.default_rng([seed, 1])
    judged = _with_loss(model)
    before = judged.SerializeToString(deterministic=True)
    names = _parameters(judged, rng)
    stage("original")
    wanted = None if data is None or "original" in skipped else run(unshared(judged), data)
    wanted = wanted if wanted is None or _is_as_declared(judged, wanted) else None
    for verb, call in _verbs(judged, names, options, rng).items():
        if verb in skipped:
            continue
        stage(verb)
        result = tell(verb, call, report)
        if judged.SerializeToString(deterministic=True) != before:
            report["faults"].append(f"{verb}: the model that was given changed")
            before = judged.SerializeToString(deterministic=True)
        if result is None or wanted is None or data is None or not result.comparable:
            continue
        stage(f"compare {verb}")
        got = compare(
            verb,
            result.model,
            {name: value for name, value in wanted.items() if name not in result.updates},
            {**_more_feeds(result.model), **result.parameters, **data},
            report,
        )
        if got is not None and _LOSS in got and "original" not in skipped:
            stage("original")
            _compare_gradients(verb, judged, data, result, got, rng, report)


def _parameters(model: onnx.ModelProto, rng: np.random.Generator) -> list[str]:
    """Names of up to four values that are floating-point numbers, and mostly no running statistics."""
    known = [tensor.name for tensor in model.graph.initializer if tensor.data_type in _FLOATS]
    if rng.random() < 0.8:
        norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
        known = [name for name in known if all(name not in node.input[3:] for node in norms)]
    known = known or [each.name for each in model.graph.input if each.type.tensor_type.elem_type in _FLOATS]
    known = [name for name in known if isinstance(name, str)] or ["nowhere"]
    return sorted({known[index] for index in rng.integers(len(known), size=int(rng.integers(1, 5)))})


_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def _is_as_declared(model: onnx.ModelProto, values: Mapping[str, Any]) -> bool:
    """Whether the outputs have the sizes that the model says: ONNX Runtime only warns where they do not."""
    for output in model.graph.output:
        said = [dim.dim_value if dim.HasField("dim_value") else None for dim in output.type.tensor_type.shape.dim]
        sizes = np.shape(values[output.name]) if output.type.tensor_type.HasField("shape") else said
        if len(said) != len(sizes) or any(each not in (None, size) for each, size in zip(said, sizes, strict=True)):
            return False
    return True


def _with_loss(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with one number more at its end: smooth and positive, and all of the first output counts in it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if copy.graph.output and isinstance(copy.graph.output[0].name, str):  # bytes that are no UTF-8 stay bytes
        first = copy.graph.output[0]
        copy.graph.node.append(helper.make_node("Sigmoid", [first.name], ["fuzz_between_0_and_1"]))
        copy.graph.node.append(helper.make_node("Exp", ["fuzz_between_0_and_1"], ["fuzz_terms"]))
        copy.graph.node.append(helper.make_node("ReduceSum", ["fuzz_terms"], [_LOSS], keepdims=0))
        copy.graph.output.append(helper.make_tensor_value_info(_LOSS, first.type.tensor_type.elem_type or 1, []))
    return copy


def _verbs(
    model: onnx.ModelProto, names: list[str], options: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Callable[[], _Trained]]:
    given: dict[str, Any] = {
        "requires_grad": None if rng.random() < 0.3 else names,
        "loss": _LOSS if rng.random() < 0.6 else _LOSSES[int(rng.integers(len(_LOSSES)))],
        "optimizer": [None, "AdamW", "SGD"][int(rng.integers(3))],
        "additional_output_names": [each.name for each in model.graph.output if rng.random() < 0.5],
        "rewrite_options": {} if rng.random() < 0.6 else {k: v for k, v in options.items() if k != "train"},
        "direct_convs": bool(rng.integers(2)),
    }
    if given["loss"] != _LOSS:
        given["loss_input_names"] = [each.name for each in model.graph.output[:1]]
    return {"differentiate": lambda: _differentiated(model, names), "artifacts": lambda: _artifacts(model, given)}


def _differentiated(model: onnx.ModelProto, names: list[str]) -> _Trained:
    inner = to_ir(read_model(model))
    size = len(inner.graph)
    try:
        DifferentiatePass(_LOSS, names)(inner)
    except onnx_cbp.OnnxCbpError:
        assert len(inner.graph) == size, "it was refused, and has changed the graph"
        raise
    result = to_proto(inner, model)
    made = [output.name for output in result.graph.output[len(model.graph.output) :]]
    return _Trained(unshared(result), gradients={name: f"{name}_grad" for name in names if f"{name}_grad" in made})


def _artifacts(model: onnx.ModelProto, given: Mapping[str, Any]) -> _Trained:
    with tempfile.TemporaryDirectory() as folder:
        try:
            generate_artifacts(model, artifact_directory=folder, builder="onnx_cbp", **given)
        except onnx_cbp.OnnxCbpError:
            assert not list(Path(folder).iterdir()), "it was refused, and has written files"
            raise
        result = onnx.load(Path(folder) / "training_model.onnx")
        parameters = checkpoints.load(Path(folder) / "checkpoint").parameters
    about = json.loads(next(each.value for each in result.metadata_props if each.key == METADATA))
    gradients = about["gradients"] if given["loss"] == _LOSS else {}
    # These mean to compute something else: with the latter, a running variance.
    is_same = not given["rewrite_options"].keys() & {"freeze", "unbiased_running_var"}
    return _Trained(result, parameters, gradients, about["updates"].values(), is_same)


def _more_feeds(model: onnx.ModelProto) -> Arrays:
    """Zeros for the targets of a loss and the random state."""
    return {name: np.zeros_like(value) for name, value in (feeds(model, np.random.default_rng(0)) or {}).items()}


def _compare_gradients(
    verb: str,
    model: onnx.ModelProto,
    data: Arrays,
    result: _Trained,
    got: Mapping[str, Any],
    rng: np.random.Generator,
    report: Report,
) -> None:
    """Hold the gradients along one direction against the slope of the original's loss, where it has one there."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    if not result.gradients or not result.gradients.keys() | result.parameters.keys() <= shapes.keys():
        return  # parameters, or a parameter and a running statistic, were merged, and have been taken apart
    direction = {name: rng.normal(size=shapes[name]) for name in result.gradients}
    terms = {name: got[output] * direction[name] for name, output in result.gradients.items()}
    slope = _slope(_in_double(model), _in_double_too(data), direction, 1e-6)
    slope = slope or _slope(model, data, direction, 1e-2)
    if slope is None or not np.isfinite(slope).all():
        return
    wanted, spread = slope
    have, size = (sum(float(part(term)) for term in terms.values()) for part in (np.sum, lambda t: np.abs(t).sum()))
    size = max(size, abs(wanted))
    noise = _NOISE * max(1.0, abs(float(got[_LOSS])))
    if spread > _TOLERANCE * size + noise:
        return  # it bends here, or has an edge
    report["compared"] += 1
    if not abs(have - wanted) <= _TOLERANCE * size + noise + spread:
        report["faults"].append(f"{verb}: the slope by {list(direction)} is {have:.4g}, and should be {wanted:.4g}")


def _slope(model: onnx.ModelProto, data: Arrays, direction: Arrays, step: float) -> tuple[float, float] | None:
    """The slope of the loss along a direction, and by how much it differs around here; None: there is none."""
    losses = []
    places = np.array([-1, -0.5, 0, 0.5, 1]) * step
    for place in places:
        moved = onnx.ModelProto()
        moved.CopyFrom(model)
        for tensor in moved.graph.initializer:
            if tensor.name in direction:
                value = numpy_helper.to_array(tensor)
                value = (value + place * direction[tensor.name]).astype(value.dtype)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        values = run(unshared(moved), data)
        if values is None or not all(np.isfinite(v).all() for v in values.values() if np.asarray(v).dtype.kind == "f"):
            return None  # a sigmoid makes a loss of infinities, too: there is no gradient of them
        losses.append(float(values[_LOSS]))
    there = [(loss - losses[2]) / place for loss, place in zip(losses, places, strict=True) if place]
    return (losses[-1] - losses[0]) / (2 * step), max(there) - min(there)


def _in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all numbers in double, where it says float; not every runtime has each op in it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    waiting: list[Any] = [copy]
    while waiting:
        message = waiting.pop()
        if isinstance(message, TensorProto):
            if message.data_type == TensorProto.FLOAT:
                value = numpy_helper.to_array(message).astype(np.float64)
                message.CopyFrom(numpy_helper.from_array(value, message.name))
            continue
        if isinstance(message, onnx.TypeProto.Tensor) and message.elem_type == TensorProto.FLOAT:
            message.elem_type = TensorProto.DOUBLE
        if isinstance(message, onnx.AttributeProto) and message.name == "to" and message.i == TensorProto.FLOAT:
            message.i = TensorProto.DOUBLE
        for of, value in message.ListFields():
            if of.message_type is not None:
                waiting += value if hasattr(value, "__len__") else [value]
    return copy


def _in_double_too(data: Arrays) -> Arrays:
    return {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in data.items()}
