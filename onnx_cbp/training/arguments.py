"""Checks the arguments of `generate_artifacts` before the work starts."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import Freezing, InferenceSite, Site, Synchronization, label
from onnx_cbp.graph_passes.core.types import FLOATS
from onnx_cbp.graph_passes.rewriting.running_statistics.momentum import Momenta
from onnx_cbp.rewriting import rewrite

#: Options of `rewrite` that do not apply to a training model.
_NOT_FOR_ARTIFACTS = ("model", "report", "train")
_SHOWN = 4


def listed(names: Collection[str]) -> str:
    """The names, quoted; if there are many, the first few and the number of the others."""
    shown = [f"'{name}'" for name in list(names)[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def names_of(value: Any, argument: str, *, of: str) -> list[str]:
    """A list of names; None gives an empty one.

    Raises:
        OnnxCbpError: it is a single text, or not a list of texts.
    """
    if value is None:
        return []
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise OnnxCbpError(f"{argument}: {value!r} is no list: give the names of {of} in one")
    names = list(value)
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise OnnxCbpError(f"{argument}: {wrong!r} is no name: give the names of {of}")
    return list(dict.fromkeys(names))


def finite_number(value: Any, argument: str, example: str = "0.001") -> float:
    """The number in an argument, which may be an array without dimensions.

    Raises:
        OnnxCbpError: it is no number, or not a finite one in float32; one line that shows the example.
    """
    array = np.asarray(value)
    if array.shape or array.dtype.kind not in "iuf" or not abs(float(array)) <= np.finfo(np.float32).max:
        raise OnnxCbpError(f"{argument}: {value!r} is no finite number: give one, such as {example}")
    return float(array)


def patterns_of(value: Any, argument: str = "train_batch_norms", *, of: str = "batch norms") -> list[str] | None:
    """The patterns in an argument; None if it was not given.

    Raises:
        OnnxCbpError: it is neither a pattern nor a list of them.
    """
    if value is None or isinstance(value, str):
        return value if value is None else [value]
    if isinstance(value, bool) or not isinstance(value, Iterable):
        raise OnnxCbpError(f"{argument}: {value!r} is no name of {of}: use '*' for all, or a list of names or patterns")
    return names_of(value, argument, of=of)


def member(choice: Any, kinds: Any, argument: str, block: type) -> Any:
    """The member of an enumeration with this name; a member, an onnxblock or None is returned unchanged.

    Raises:
        OnnxCbpError: it is none of these.
    """
    if choice is None or isinstance(choice, kinds | block):
        return choice
    if isinstance(choice, str) and choice in kinds.__members__:
        return kinds[choice]
    what = f"there is no '{choice}'" if isinstance(choice, str) else f"{choice!r} is none"
    raise OnnxCbpError(f"{argument}: {what}: use {', '.join(kinds.__members__)} or an onnxblock")


def rewrite_options_of(options: Any) -> dict[str, Any]:
    """Options of `rewrite` by name.

    Raises:
        OnnxCbpError: they are not options, one has an unknown name, or one that should name batch norms does not.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise OnnxCbpError(f"rewrite_options: {options!r} is none: give a dict, such as {{'synchronize': True}}")
    known = [name for name in inspect.signature(rewrite).parameters if name not in _NOT_FOR_ARTIFACTS]
    for name in options:
        if name not in known:
            raise OnnxCbpError(f"rewrite_options: there is no {name!r}: use {', '.join(known)}")
    freeze, synchronize = options.get("freeze", ()), options.get("synchronize", False)
    if not isinstance(freeze, str):
        names_of(freeze, "rewrite_options: freeze", of="batch norms")
    Freezing.of(freeze)
    Synchronization.of(synchronize)
    Momenta.of(options.get("momentum"))
    return dict(options)


def check_outputs(model: ir.Model, loss: Any, loss_inputs: Sequence[str], more: Sequence[str]) -> None:
    """Refuse a loss that is impossible, and outputs that the graph does not have.

    Args:
        model: the forward graph.
        loss: the argument `loss`; None makes the graph's first output the loss.
        loss_inputs: what `loss_input_names` names.
        more: what `additional_output_names` names.

    Raises:
        OnnxCbpError: see above.
    """
    outputs = [value.name or "" for value in model.graph.outputs]
    made = {value.name for node in model.graph for value in node.outputs if value.name}
    for argument, names, known in (
        ("loss_input_names", loss_inputs, set(outputs)),
        ("additional_output_names", more, made | set(outputs)),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            kind = "output" if argument.startswith("loss") else "value"
            raise OnnxCbpError(
                f"{argument}: the graph has no {kind} {listed(unknown)}; its outputs are {listed(outputs)}"
            )
    shape = model.graph.outputs[0].shape if loss is None and outputs else None
    if shape is not None and any(size != 1 for size in shape):
        raise OnnxCbpError(
            f"loss: without one the graph's first output is the loss, and '{outputs[0]}' of shape {shape} is no single "
            "number: name a loss"
        )


def check_parameters(
    model: ir.Model, sites: Sequence[Site], trained: Sequence[str], frozen: Sequence[str], statistics: Collection[str]
) -> None:
    """Refuse names of no parameter, and parameters that cannot have a gradient.

    Args:
        model: the forward graph, as the gradient builder gets it.
        sites: its batch norms.
        trained: what `requires_grad` names.
        frozen: what `frozen_params` names.
        statistics: names of the running statistics of batch norms that train.

    Raises:
        OnnxCbpError: see above.
    """
    both = [name for name in trained if name in frozen]
    if both:
        raise OnnxCbpError(f"{listed(both)} cannot be in requires_grad and in frozen_params: leave one out")
    values = model.graph.initializers
    for argument, names in (("requires_grad", trained), ("frozen_params", frozen)):
        unknown = [name for name in names if name not in values]
        if unknown:
            parameters = [name for name, value in model.graph.initializers.items() if value.dtype in FLOATS]
            raise OnnxCbpError(
                f"{argument}: the model has no parameter {listed(unknown)}; its parameters are {listed(parameters)}"
            )
    fixed = {
        value.name: site
        for site in sites
        if isinstance(site, InferenceSite)
        for value in (site.mean, site.var)
        if value.name
    }
    for name in trained:
        value = values[name]
        if name in statistics:
            raise OnnxCbpError(f"requires_grad: '{name}' is a running statistic, which has no gradient: leave it out")
        if name in fixed:
            raise OnnxCbpError(
                f"requires_grad: '{name}' is a running statistic of the frozen batch norm '{label(fixed[name].node)}', "
                "which stays as it is: leave it out"
            )
        if value.dtype is not None and value.dtype not in FLOATS:
            raise OnnxCbpError(f"requires_grad: '{name}' has type {value.dtype}, which has no gradient: leave it out")
        if not (value.uses() or value.is_graph_output()):
            raise OnnxCbpError(f"requires_grad: no node reads '{name}', so it has no gradient: leave it out")
