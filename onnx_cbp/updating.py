"""`update_bn`: measures running statistics again from data; parameters do not change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnx_cbp.bfloat16 import refuse_taken_too_early, without_kernel
from onnx_cbp.checking.memory import physical_memory
from onnx_cbp.checking.sessions import _explain, _loadable, _onnxruntime, _session
from onnx_cbp.custom_ops.python_ops import raise_python_op_error
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import InlineFunctionsPass, label
from onnx_cbp.graph_passes.core.batch_norms.counting import counter_of
from onnx_cbp.graph_passes.core.types import FLOATS, Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.core.wrong_shapes import drop_wrong_shapes
from onnx_cbp.graph_passes.stepping.training_graph import TrainingGraph
from onnx_cbp.graph_passes.updating.batch_statistics import (
    Layer,
    expose_statistics,
    feed_bfloat16_as_float,
    find_layers,
)
from onnx_cbp.graph_passes.updating.own_statistics import OwnStatistics, is_read_elsewhere, kept, nodes_of
from onnx_cbp.ir_models import ModelSource, read_model, to_ir, to_proto
from onnx_cbp.registration import register
from onnx_cbp.training.parameters import CheckpointParameters

_FATAL_ONLY = 4

#: The input of one training step: arrays by the graph's input names, an array for the first input, or arrays in the
#: order of the inputs.
Batch = Mapping[str, Any] | Sequence[Any] | Any


def update_bn(
    model: ModelSource,
    batches: Iterable[Batch],
    *,
    checkpoint: Any = None,
    momentum: float | None = None,
    exact: bool = False,
    unbiased_running_var: bool = True,
    backend: str = "auto",
) -> onnx.ModelProto:
    """Measure the running statistics of every batch norm again from data, as `torch.optim.swa_utils.update_bn` does.

    With only a model and batches, the results are PyTorch's: the average over the batches of the mean and of the
    unbiased variance, where each batch and each call of a module has the same weight.

    The graph runs over the batches, and each batch norm normalises with its batch. So the statistics of a layer are
    those of its input in training. Nothing else in the graph runs: no loss, no gradient. Every form of a batch norm is
    supported: exports for inference, eval models (even those that ONNX Runtime does not load), and training graphs,
    before and after `rewrite`. Random ops, such as Dropout, stay as they are. In training graphs of ours they go on
    from the random state of the checkpoint, which stays as it is.

    Args:
        model: a model or its path; it is not changed.
        batches: what to feed, one after another; the memory does not grow with their number. Each is a dict of arrays
            by input names, or an array or a tuple of arrays in the order of the graph's inputs that are no parameters.
            They have the types of the inputs; for an input of bfloat16 they are bfloat16 or float32. Inputs on which no
            batch norm depends, such as labels, may be left out.
        checkpoint: where ONNX Runtime keeps the parameters of a training graph or an eval model: a `CheckpointState` or
            the path of one. The new running statistics go there; a file is written whole or not at all.
        momentum: None: the average over all batches, each with the same weight. Otherwise ONNX's momentum (the part
            that is kept; 1 minus PyTorch's): an exponential average that begins with the present statistics.
        exact: instead of both: the mean and the variance over all samples, by Chan's merge over the batches. In the
            first batch norm they do not depend on how data is cut into batches; later ones normalise with their batch.
        unbiased_running_var: compute variances in PyTorch's convention, count / (count - 1) of the biased one (with
            `exact` once, with the count of all samples). False: in that of ONNX and Keras, the biased ones.
        backend: of the ops, as for `register`.

    Returns:
        The model with new running statistics in its initializers; a copy of the model if all are in the checkpoint.
        Batch norms that share a tensor, but are not one module with one scale, get their own tensors.

    Raises:
        OnnxCbpError: no batch norm with running statistics, no batches, a batch that does not fit the inputs, or one
            with a single element a channel where variances are unbiased (PyTorch refuses it, too); statistics that are
            neither in the model nor in the checkpoint, computed of what is fed, or not finite. Nothing is written then.
    """
    if exact and momentum is not None:
        raise OnnxCbpError("update_bn: momentum and exact exclude each other: an exact average forgets nothing")
    if momentum is not None and not 0 <= momentum <= 1:
        raise OnnxCbpError(f"update_bn: momentum is {momentum}: use a number from 0 to 1, or None")
    source = read_model(model)
    parameters = CheckpointParameters.of(checkpoint)
    result, modules = _measure(source, batches, parameters, backend, momentum, exact, unbiased_running_var)
    _put(result, modules, parameters)
    parameters.save()
    return to_proto(result, source)


def measure(
    model: ModelSource, batches: Iterable[Batch], *, checkpoint: Any = None
) -> list[tuple[Layer, np.ndarray, np.ndarray]]:
    """The running statistics that `update_bn` would give each batch norm, in float64: layer, mean and variance.

    Arguments and errors are those of `update_bn`. Nothing is written.
    """
    source = read_model(model)
    _, modules = _measure(source, batches, CheckpointParameters.of(checkpoint), "auto", None, False, True)
    found = []
    for module in modules:
        mean, var = module.statistics()
        found += [(layer, mean, var) for layer in module.layers]
    return found


def _measure(
    source: onnx.ModelProto,
    batches: Iterable[Batch],
    parameters: CheckpointParameters,
    backend: str,
    momentum: float | None,
    exact: bool,
    unbiased: bool,
) -> tuple[ir.Model, list[_Module]]:
    """The model as onnx-ir's, and its modules with their statistics over the batches."""
    result = _readable(source)
    layers = find_layers(result)
    if not layers:
        raise OnnxCbpError("the model has no batch norm with running statistics")
    types = Types(result)
    modules: dict[tuple[object, ...], _Module] = {}
    for layer in layers:
        _check_data(layer, types)
        module = modules.setdefault(layer.module, _Module(momentum, exact, unbiased))
        module.layers.append(layer)
    for module in modules.values():
        module.check_home(parameters)
    run = _Run(source, parameters, backend)
    number = -1
    for number, batch in enumerate(batches):
        values = run(batch, number)
        for layer, (mean, var, count) in zip(layers, values, strict=True):
            if not (np.isfinite(mean).all() and np.isfinite(var).all()):
                name = label(layer.site.node)
                raise OnnxCbpError(f"batch {number}: the statistics of '{name}' are not finite: nothing was written")
            modules[layer.module].check_size(mean.size, number, parameters)
            if count == 1 and unbiased and not exact:
                raise OnnxCbpError(
                    f"batch {number}: '{label(layer.site.node)}' gets one element a channel, which has no unbiased "
                    "variance: leave the batch out, or use exact or unbiased_running_var=False"
                )
            modules[layer.module].add(mean, var, int(count), parameters)
    if number < 0:
        raise OnnxCbpError("update_bn: there are no batches to take statistics of")
    return result, list(modules.values())


def _readable(source: onnx.ModelProto) -> ir.Model:
    """The model as onnx-ir's, without functions that have batch norms, and without wrong shapes."""
    result = to_ir(source)
    InlineFunctionsPass(inference=True)(result)
    drop_wrong_shapes(result)  # ONNX Runtime computes sizes from them
    return result


def _check_data(layer: Layer, types: Types) -> None:
    """Refuse, before anything runs, the data of a batch norm that are none, or that no memory holds."""
    X = layer.site.X
    shape, dtype = types.shape(X), types.of(X)
    if dtype is not None and dtype not in FLOATS:
        raise OnnxCbpError(
            f"'{label(layer.site.node)}': '{X.name}' has type {dtype}: batch norm needs floating-point numbers"
        )
    if shape is None:
        return
    if len(shape) < 2:
        raise OnnxCbpError(
            f"'{label(layer.site.node)}': '{X.name}' has shape {list(shape)}: batch norm needs rank 2 or more"
        )
    # An open size is one at least, and a type that is not known has at least a byte.
    size = math.prod(each for each in shape if isinstance(each, int)) * (1 if dtype is None else dtype.itemsize)
    memory = physical_memory()
    if memory is not None and size > memory:
        raise OnnxCbpError(
            f"'{label(layer.site.node)}': '{X.name}' has shape {list(shape)}, {size / 1e9:.0f} GB, and this "
            f"machine has {memory / 1e9:.0f} GB of memory: measure on a larger one"
        )


@dataclass
class _Module:
    """Layers with the same parameters, and their statistics so far."""

    momentum: float | None
    exact: bool
    unbiased: bool
    layers: list[Layer] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    seen: int = 0
    batches: int = 0

    @property
    def homes(self) -> tuple[ir.Value, ir.Value]:
        """The values that the running statistics have before a step."""
        return self.layers[0].mean, self.layers[0].var

    def check_home(self, parameters: CheckpointParameters) -> None:
        """Raise if new statistics could not be kept."""
        for home in self.homes:
            if _is_data(home, parameters):
                where = "the checkpoint does not have it" if parameters else "give the checkpoint that has it"
                raise OnnxCbpError(
                    f"node '{label(self.layers[0].site.node)}' has the running statistic '{home.name}', which is an "
                    f"input of the graph: {where}"
                )
            fed = next((value for value in made_of(home) if value is not home and _is_data(value, parameters)), None)
            if fed is not None:
                raise OnnxCbpError(
                    f"node '{label(self.layers[0].site.node)}' computes its running statistic '{home.name}' of what is "
                    f"fed to '{fed.name}', as an instance norm with running statistics does (one for each sample), so "
                    "no tensor could keep it: make it an initializer, or leave the layer out with "
                    "track_running_stats=False"
                )

    def check_size(self, channels: int, number: int, parameters: CheckpointParameters) -> None:
        """Raise if the data has another number of channels than the running statistics."""
        for home in self.homes:
            known = parameters.get(str(home.name)) if home.name in parameters else None
            tensor = ir.convenience.get_const_tensor(home) if known is None else None
            size = known.size if known is not None else None if tensor is None else tensor.size
            if size not in (None, channels):
                raise OnnxCbpError(
                    f"batch {number}: node '{label(self.layers[0].site.node)}' gets {channels} channels, and its "
                    f"running statistic '{home.name}' has {size}: the model does not fit the data"
                )

    def add(self, mean: np.ndarray, var: np.ndarray, count: int, parameters: CheckpointParameters) -> None:
        """Include the statistics of one batch; those of an empty batch do not count."""
        if count == 0:
            return
        self.batches += 1
        batch = [mean.astype(np.float64), var.astype(np.float64)]
        if self.exact:
            self._merge(batch, count)
            return
        if self.unbiased:
            batch[1] *= count / (count - 1)
        self.seen += 1
        if self.momentum is not None:
            kept = self.momentum
            self.values = self.values or [_present(home, parameters) for home in self.homes]
        else:
            kept = (self.seen - 1) / self.seen
            self.values = self.values or [np.zeros_like(value) for value in batch]
        self.values = [old * kept + new * (1 - kept) for old, new in zip(self.values, batch, strict=True)]

    def _merge(self, batch: list[np.ndarray], count: int) -> None:
        """Chan's merge: of all samples so far and those of a batch."""
        if not self.seen:
            self.values, self.seen = batch, count
            return
        (mean, var), (new_mean, new_var) = self.values, batch
        total = self.seen + count
        part = count / total
        delta = new_mean - mean
        self.values = [
            mean + delta * part,
            var * (1 - part) + new_var * part + delta**2 * part * (1 - part),
        ]
        self.seen = total

    def statistics(self) -> list[np.ndarray]:
        """The running mean and variance, in float64."""
        if not self.seen:
            name = label(self.layers[0].site.node)
            raise OnnxCbpError(f"update_bn: all batches of '{name}' are empty: there is nothing to take statistics of")
        mean, var = self.values
        if not (self.exact and self.unbiased):
            return [mean, var]
        if self.seen == 1:
            raise OnnxCbpError(
                f"update_bn: '{label(self.layers[0].site.node)}' gets one element a channel in all, which has no "
                "unbiased variance: give more data, or use unbiased_running_var=False"
            )
        return [mean, var * (self.seen / (self.seen - 1))]


def _is_data(value: ir.Value, parameters: CheckpointParameters) -> bool:
    """Whether a value is fed to the graph, and is no parameter."""
    return value.is_graph_input() and not value.is_initializer() and value.name not in parameters


def _present(home: ir.Value, parameters: CheckpointParameters) -> np.ndarray:
    if home.name in parameters:
        return parameters.get(str(home.name)).astype(np.float64).reshape(-1)
    constant = ir.convenience.get_const_tensor(home)
    if constant is None:
        raise OnnxCbpError(f"the running statistic '{home.name}' is no constant, so there is nothing to go on from")
    return constant.numpy().astype(np.float64).reshape(-1)


class _Run:
    """Computes the batch statistics of every layer, for one batch after another."""

    def __init__(self, source: onnx.ModelProto, parameters: CheckpointParameters, backend: str) -> None:
        graph = _readable(source)
        initializers = graph.graph.initializers
        #: The inputs of the model that are fed with data, and those of them on which the statistics depend.
        self._inputs = [
            str(value.name)
            for value in graph.graph.inputs
            if value.name not in initializers and value.name not in parameters
        ]
        described = TrainingGraph.of(graph)
        self._random_input = None if described is None else described.random_state
        self._random_state = np.array([parameters.random_state], np.int64)
        outputs = expose_statistics(graph)
        refuse_taken_too_early(graph)
        feed_bfloat16_as_float(graph)
        self._needed = [str(value.name) for value in graph.graph.inputs if value.name in self._inputs]
        self._constant = {
            str(value.name): _fed(parameters.get(str(value.name)))
            for value in graph.graph.inputs
            if value.name in parameters
        }
        tensors = [value for value in graph.graph.inputs if isinstance(value.type, ir.TensorType)]
        self._dtypes = {str(v.name): v.dtype.numpy() for v in tensors if v.dtype not in (None, ir.DataType.STRING)}
        self._names = [name for triple in outputs for name in triple]
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # errors are raised too, and printed by whoever called
        register(options, backend)
        self._version = ort.__version__
        try:
            with _loadable(to_proto(graph, source)) as loadable:
                self._session = _session(loadable, options, ["CPUExecutionProvider"])
        except Exception as error:  # the exceptions of ONNX Runtime have no base of their own
            line = without_kernel(graph, str(error), self._version)
            raise OnnxCbpError(line or _explain("the model", str(error), self._version)) from error

    def __call__(self, batch: Batch, number: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        feeds = {**self._constant, **self._feeds(batch, number)}
        try:
            values = self._session.run(self._names, feeds)
        except Exception as error:
            raise_python_op_error()
            raise OnnxCbpError(_explain(f"batch {number}: the model", str(error), self._version)) from error
        raise_python_op_error()
        return list(zip(values[0::3], values[1::3], values[2::3], strict=True))

    def _feeds(self, batch: Batch, number: int) -> dict[str, np.ndarray]:
        if isinstance(batch, Mapping):
            strange = next((name for name in batch if name not in self._inputs), None)
            if strange is not None:
                raise OnnxCbpError(f"batch {number}: '{strange}' is no input of the model; it has {self._listed()}")
            given = dict(batch)
        else:
            arrays = batch if isinstance(batch, list | tuple) else (batch,)
            given = dict(zip(self._inputs, arrays, strict=False))  # what is more is labels, say
        if self._random_input is not None:
            given.setdefault(self._random_input, self._random_state + number)  # as the steps of a training count it
        missing = next((name for name in self._needed if name not in given), None)
        if missing is not None:
            raise OnnxCbpError(
                f"batch {number}: nothing is fed to '{missing}'; give {self._listed()}, or the checkpoint that has it"
            )
        return {name: self._array(name, given[name], number) for name in self._needed}

    def _array(self, name: str, value: Any, number: int) -> np.ndarray:
        dtype = self._dtypes.get(name)
        try:
            array = _fed(np.asarray(value))
        except RuntimeError:  # an OrtValue of a type that NumPy does not have
            raise OnnxCbpError(f"batch {number}: '{name}' is no array of NumPy: give one of {dtype}") from None
        if dtype not in (None, array.dtype):
            raise OnnxCbpError(
                f"batch {number}: '{name}' has type {array.dtype}, and {dtype} is fed to the model: give it as {dtype}"
            )
        return array

    def _listed(self) -> str:
        return ", ".join(f"'{name}'" for name in self._needed)


def _fed(array: np.ndarray) -> np.ndarray:
    """An array as ONNX Runtime takes it, which has no arrays of bfloat16."""
    return array.astype(np.float32) if array.dtype == ir.DataType.BFLOAT16.numpy() else array


def _put(model: ir.Model, modules: list[_Module], parameters: CheckpointParameters) -> None:
    """Replace the running statistics by those of the modules."""
    layers = [layer for module in modules for layer in module.layers]
    own, nodes = OwnStatistics(model, layers), nodes_of(layers)
    claims = Counter(
        value for module in modules for value in (*module.homes, module.layers[0].scale, module.layers[0].B)
    )
    into_checkpoint: list[tuple[str, np.ndarray]] = []
    for module in modules:
        for position, (home, statistic) in enumerate(zip(module.homes, module.statistics(), strict=True)):
            if home.name in parameters:
                if claims[home] > 1:
                    raise OnnxCbpError(f"parameter '{home.name}' is shared by batch norms that are not one module")
                present = parameters.get(str(home.name))
                into_checkpoint.append((str(home.name), kept(statistic, present.dtype, present.shape, str(home.name))))
            elif _is_kept_in(home) and claims[home] == 1 and not is_read_elsewhere(home, nodes):
                _set(home, statistic)
            else:  # equal tensors that some tool made one, or no initializer at all
                own.give(module.layers, position, statistic)
        counter = counter_of(module.homes[0])
        if counter in parameters and module.momentum is None:  # training goes on from the average of these
            into_checkpoint.append((counter, np.full_like(parameters.get(counter), module.batches)))
    for name, value in into_checkpoint:
        parameters.set(name, value)


def _is_kept_in(home: ir.Value) -> bool:
    """Whether a value is an initializer that a statistic fits into; one of integers is cast behind it."""
    return home.is_initializer() and home.const_value is not None and home.const_value.dtype in FLOATS


def _set(home: ir.Value, statistic: np.ndarray) -> None:
    tensor = home.const_value
    assert tensor is not None
    name = str(home.name)
    home.const_value = ir.tensor(kept(statistic, tensor.dtype.numpy(), tensor.shape.numpy(), name), name=name)
