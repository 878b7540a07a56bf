"""A network that trains, as `onnxruntime.training.api.Module` is one."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.finalizing import finalize
from onnx_cbp.graph_passes.stepping.flatten_state import PARAMETERS
from onnx_cbp.model_files.model_io import save_model
from onnx_cbp.training import checkpoints
from onnx_cbp.training.api.checkpoint_state import CheckpointState
from onnx_cbp.training.arguments import names_of
from onnx_cbp.training.running.buffers import Device
from onnx_cbp.training.running.program import Program, Source
from onnx_cbp.training.running.training_session import TrainingSession

_log = logging.getLogger("onnx_cbp")
#: The provider for the name of a device; for other devices, use `providers`.
_PROVIDERS = {"cpu": None, "cuda": "CUDAExecutionProvider"}


class Module:
    """Runs a network forward and backward, and evaluates it.

    Args:
        train_model_uri: the training model of `generate_artifacts`, or its path.
        state: the state, which the module keeps up to date.
        eval_model_uri: the evaluation model, or its path, if it is wanted.
        device: "cpu", "cuda" or "cuda:N".
        session_options: `onnxruntime.SessionOptions` for every session; our ops are registered with them if the graph
            needs that.
        providers: execution providers as for `onnxruntime.InferenceSession`, instead of those that belong to `device`.
            stands for.

    Attributes:
        training: whether calls train (as at the beginning) or evaluate.

    Raises:
        OnnxCbpError: one line: a file cannot be read, is not one of ours or does not load, or the checkpoint belongs to
            another network.
    """

    training: bool

    def __init__(
        self,
        train_model_uri: Source,
        state: CheckpointState,
        eval_model_uri: Source | None = None,
        device: str = "cpu",
        session_options: Any = None,
        *,
        providers: Sequence[Any] | None = None,
    ) -> None:
        if not isinstance(state, CheckpointState):
            raise OnnxCbpError(f"state: {state!r} is no CheckpointState: give that of CheckpointState.load_checkpoint")
        self.training = True
        self._device, own = _device(device)
        options = ort.SessionOptions() if session_options is None else session_options
        program = Program(train_model_uri, eval_model_uri)
        self._state = state
        kept = state._shared(program, self._device)
        self._session = TrainingSession(program, kept, options, own if providers is None else providers)
        state._session = self._session
        state._forget()

    def __call__(self, *user_inputs: Any) -> Any:
        """Run a step of training, or the evaluation.

        Args:
            *user_inputs: the inputs in the order of `input_names`, as arrays or OrtValues.

        Returns:
            The outputs in the order of `output_names`; a single output is returned itself. They are arrays, or
            OrtValues if the inputs are OrtValues.

        Raises:
            OnnxCbpError: one line: inputs that do not fit, no evaluation model, or a run that fails.
        """
        as_arrays = any(not isinstance(value, ort.OrtValue) for value in user_inputs)
        fed = self._feeds(user_inputs)
        device = Device() if as_arrays else self._device
        results = self._session.train(fed, device) if self.training else self._session.evaluate(fed, device)
        # An output that is an input lies in the memory that was fed, which nothing keeps.
        results = [
            device.put(value.numpy()) if name in fed else value
            for name, value in zip(self.output_names(), results, strict=True)
        ]
        if as_arrays:
            results = [np.asarray(value.numpy()) for value in results]
        return results[0] if len(results) == 1 else tuple(results)

    def train(self, mode: bool = True) -> Module:
        """Let calls train, or evaluate."""
        self.training = mode
        return self

    def eval(self) -> Module:
        """Let calls evaluate."""
        return self.train(False)

    def lazy_reset_grad(self) -> None:
        """Let the gradients of the next call replace those accumulated so far."""
        self._session.reset()

    def get_contiguous_parameters(self, trainable_only: bool = False) -> Any:
        """All parameters as one OrtValue, a vector of the type that trains.

        They are in the order of the training model's inputs, which is that of the forward model's initializers.

        Raises:
            OnnxCbpError: the checkpoint is nominal.
        """
        self._state._refuse_nominal()
        pieces = [self._session.state.read(name).reshape(-1) for name in self._names(trainable_only)]
        dtype = self._session.program.groups[PARAMETERS].dtype
        return self._device.put(np.concatenate(pieces, dtype=dtype, casting="unsafe"))

    def get_parameters_size(self, trainable_only: bool = True) -> int:
        """How many elements the parameters have."""
        return sum(self._sizes(trainable_only))

    def copy_buffer_to_parameters(self, buffer: Any, trainable_only: bool = True) -> None:
        """Set the parameters from a vector like that of `get_contiguous_parameters`.

        A module with a nominal checkpoint needs this before its first call.
        """
        vector = np.asarray(buffer.numpy() if hasattr(buffer, "numpy") else buffer)
        sizes = self._sizes(trainable_only)
        if vector.ndim != 1 or vector.size != sum(sizes):
            raise OnnxCbpError(
                f"the buffer has shape {list(vector.shape)}, and the parameters {sum(sizes)} elements: give one of "
                f"get_contiguous_parameters(trainable_only={trainable_only})"
            )
        names = self._names(trainable_only)
        if self._state.nominal and len(names) < len(self._names(trainable_only=False)):
            raise OnnxCbpError("the checkpoint is nominal: give all parameters values, with trainable_only=False")
        for name, piece in zip(names, np.split(vector, np.cumsum(sizes)[:-1]), strict=True):
            old = self._session.state.read(name)
            self._session.state.write(name, piece.astype(old.dtype).reshape(old.shape))
        self._state._contents.nominal = False

    def export_model_for_inferencing(
        self, inference_model_uri: str | os.PathLike[str], graph_output_names: Sequence[str]
    ) -> None:
        """Write the model for inference, with the present parameters: the result of `onnx_cbp.finalize`.

        Args:
            inference_model_uri: the file to write.
            graph_output_names: values of the evaluation model that become its outputs. The loss is left out, with a
                warning, if it judges other outputs: it has no labels at inference.

        Raises:
            OnnxCbpError: one line: no evaluation model, no names or one that is none, a nominal checkpoint, or a file
                that cannot be written.
        """
        program = self._session.program
        source = program.evaluation_source
        if source is None:
            raise OnnxCbpError("export_model_for_inferencing needs an evaluation model: give Module an eval_model_uri")
        names = names_of(graph_output_names, "graph_output_names", of="values")
        loss = program.eval_outputs[0]
        if loss in names and program.graph.scores:
            _log.warning("graph_output_names: the loss '%s' is left out: it has no labels at inference", loss)
            names.remove(loss)
        if not names:
            raise OnnxCbpError("graph_output_names: no value of inference is named: name the results of the network")
        self._state._refuse_nominal()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint"
            checkpoints.save(self._state._now(with_optimizer=False), path)
            save_model(finalize(source, checkpoint=path, outputs=names), inference_model_uri)

    def input_names(self) -> list[str]:
        """The names of the inputs of a call."""
        return [value.name or "" for value in self._inputs()]

    def output_names(self) -> list[str]:
        """The names of the outputs of a call."""
        program = self._session.program
        return list(program.outputs if self.training else self._evaluates().eval_outputs)

    def _inputs(self) -> list[Any]:
        return self._session.program.inputs if self.training else self._evaluates().eval_inputs

    def _evaluates(self) -> Program:
        program = self._session.program
        if program.evaluation_source is None:
            raise OnnxCbpError("the module has no evaluation model: give Module an eval_model_uri")
        return program

    def _feeds(self, given: Sequence[Any]) -> dict[str, Any]:
        wanted = self._inputs()
        if len(given) != len(wanted):
            names = ", ".join(f"'{value.name}'" for value in wanted)
            raise OnnxCbpError(f"{len(given)} inputs were given, and the model takes {len(wanted)}: {names}")
        self._state._refuse_nominal()
        return {
            value.name: each if isinstance(each, ort.OrtValue) else self._put(np.asarray(each), value)
            for value, each in zip(wanted, given, strict=True)
        }

    def _put(self, array: np.ndarray, value: Any) -> Any:
        if value.dtype is not None and value.dtype.numpy() != array.dtype:
            raise OnnxCbpError(f"input '{value.name}' is {array.dtype}, and the model takes {value.dtype.numpy()}")
        shape = None if value.shape is None else value.shape.dims
        fits = shape is None or (
            len(shape) == array.ndim
            and all(not isinstance(dim, int) or dim == size for dim, size in zip(shape, array.shape, strict=True))
        )
        if not fits:
            raise OnnxCbpError(f"input '{value.name}' has shape {list(array.shape)}, and the model takes {value.shape}")
        array = np.ascontiguousarray(array) if array.ndim else array
        return ort.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.number)

    def _names(self, trainable_only: bool) -> list[str]:
        graph = self._session.program.graph
        names = set(graph.gradients) if trainable_only else set(graph.parameters)
        return [name for name in self._session.program.values if name in names]

    def _sizes(self, trainable_only: bool) -> list[int]:
        return [int(np.prod(self._session.program.shape(name), dtype=int)) for name in self._names(trainable_only)]


def _device(text: str) -> tuple[Device, list[Any]]:
    kind, _, number = text.partition(":")
    if kind not in _PROVIDERS or not (number.isdigit() or not number):
        raise OnnxCbpError(f"device is {text!r}: use 'cpu', 'cuda' or 'cuda:N', or name the providers")
    device = Device(kind, int(number or 0))
    provider = _PROVIDERS[kind]
    own: list[Any] = ["CPUExecutionProvider"]
    if provider is None:
        return device, own
    if provider not in ort.get_available_providers():
        raise OnnxCbpError(f"device is {text!r}: onnxruntime {ort.__version__} as it is installed has no {provider}")
    return device, [(provider, {"device_id": device.number}), *own]
