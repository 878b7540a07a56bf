"""The state of a training, as `onnxruntime.training.api.CheckpointState` gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training import checkpoints
from onnx_cbp.training.checkpoints import Checkpoint, Property

if TYPE_CHECKING:
    from onnx_cbp.training.running.buffers import Device
    from onnx_cbp.training.running.program import Program
    from onnx_cbp.training.running.training_session import TrainingSession, TrainingState


class Parameter:
    """A parameter of a network, as `CheckpointState.parameters` returns it."""

    def __init__(self, name: str, state: CheckpointState) -> None:
        self._name = name
        self._state = state

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def data(self) -> np.ndarray:
        """A read-only copy of its present value; assign to `data` to change the value."""
        self._state._refuse_nominal()
        value = self._state._read(self._name)
        value.flags.writeable = False
        return value

    @data.setter
    def data(self, value: np.ndarray) -> None:
        self._state._refuse_nominal()
        self._state._write(self._name, value)

    @property
    def grad(self) -> np.ndarray | None:
        """A copy of its gradient; None if it is frozen, or if no Module was made from the state yet."""
        session = self._state._session
        if session is None or not self.requires_grad:
            return None
        value = session.state.gradient(self._name)
        value.flags.writeable = False
        return value

    @property
    def requires_grad(self) -> bool:
        """Whether it trains."""
        return self._name in self._state._trained()

    def __repr__(self) -> str:
        return f"Parameter(name={self.name}, requires_grad={self.requires_grad})"


class Parameters:
    """The parameters of a network by name; iterating gives pairs of name and `Parameter`."""

    def __init__(self, state: CheckpointState) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Parameter:
        if name not in self:
            raise KeyError(f"Parameter {name} not found.")
        return Parameter(name, self._state)

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self[name].data = value

    def __contains__(self, name: object) -> bool:
        return name in self._state._contents.parameters

    def __iter__(self) -> Iterator[tuple[str, Parameter]]:
        for name in sorted(self._state._contents.parameters):
            yield name, Parameter(name, self._state)

    def __len__(self) -> int:
        return len(self._state._contents.parameters)

    def __repr__(self) -> str:
        return repr(sorted(self._state._contents.parameters))


class Properties:
    """A user's own values in a checkpoint: int, float and str by name; iterating gives pairs."""

    def __init__(self, state: CheckpointState) -> None:
        self._values = state._contents.properties

    def __getitem__(self, name: str) -> Property:
        if name not in self._values:
            raise KeyError(f"Property {name} not found.")
        return self._values[name]

    def __setitem__(self, name: str, value: Property) -> None:
        if not isinstance(name, str):
            raise OnnxCbpError(f"property {name!r} has no name: properties are named with text")
        if isinstance(value, np.integer | np.floating | np.bool_):
            value = value.item()
        if not isinstance(value, int | float | str):
            raise OnnxCbpError(f"property '{name}' is {value!r}: a checkpoint keeps int, float and str")
        self._values[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[tuple[str, Property]]:
        yield from sorted(self._values.items())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(sorted(self._values))


class CheckpointState:
    """The parameters, the optimiser's state and a user's properties. `load_checkpoint` makes one."""

    def __init__(self, state: Checkpoint) -> None:
        if not isinstance(state, Checkpoint):
            raise TypeError(f"Invalid argument for CheckpointState received {type(state)}")
        self._contents = state
        self._session: TrainingSession | None = None
        self._parameters = Parameters(self)
        self._properties = Properties(self)

    @classmethod
    def load_checkpoint(cls, checkpoint_uri: str | os.PathLike[str]) -> CheckpointState:
        """Load the state from a file, ours or ONNX Runtime's, whole or nominal.

        Raises:
            OnnxCbpError: one line: the file cannot be read.
        """
        return cls(checkpoints.load(checkpoint_uri))

    @classmethod
    def save_checkpoint(
        cls, state: CheckpointState, checkpoint_uri: str | os.PathLike[str], include_optimizer_state: bool = False
    ) -> None:
        """Write the state as a file in our format, whole or not at all.

        With the optimiser's state, training that is resumed from it gives the same bits.

        Raises:
            OnnxCbpError: one line: `state` is none, or the file cannot be written.
        """
        if not isinstance(state, CheckpointState):
            raise OnnxCbpError(f"save_checkpoint: {state!r} is no CheckpointState: give the one that the module has")
        checkpoints.save(state._now(include_optimizer_state), checkpoint_uri)

    @property
    def parameters(self) -> Parameters:
        """The parameters, including running statistics; those of a nominal checkpoint have no values yet."""
        return self._parameters

    @property
    def properties(self) -> Properties:
        """The user's own values."""
        return self._properties

    @property
    def nominal(self) -> bool:
        """Whether it has only the names and shapes of parameters, and still needs their values."""
        return self._contents.nominal

    @property
    def random_state(self) -> int | None:
        """The state of the random generator for the next step, as an int64; None if steps use no random numbers."""
        if self._session is not None:
            return self._session.state.random_state()
        return self._contents.random_state

    @random_state.setter
    def random_state(self, value: int) -> None:
        self._contents.random_state = int(value)
        if self._session is not None:
            self._session.state.seed(int(value))

    def _shared(self, program: Program, device: Device) -> TrainingState:
        """The state for a module: that of an earlier module of the same network, or a new one."""
        from onnx_cbp.training.running.training_session import TrainingState

        if self._session is None:
            if self.nominal:
                _give_shapes(self._contents, program)
            return TrainingState(program, self._contents, device)
        earlier = self._session.state
        if (earlier.program.groups, earlier.program.graph, earlier.device) != (program.groups, program.graph, device):
            raise OnnxCbpError(
                f"the state belongs to a module of {earlier.program.name} already: load the checkpoint once more for "
                f"{program.name}"
            )
        return earlier

    def _forget(self) -> None:
        """Keep only the types and shapes of what the session holds."""
        parameters = self._contents.parameters
        for name, array in parameters.items():
            if self._is_live(name):
                parameters[name] = np.broadcast_to(np.zeros((), array.dtype), array.shape)

    def _trained(self) -> tuple[str, ...] | dict[str, str]:
        return self._contents.trained if self._session is None else self._session.program.graph.gradients

    def _is_live(self, name: str) -> bool:
        return self._session is not None and name in self._session.program.values

    def _refuse_nominal(self) -> None:
        """Raise if the parameters have no values yet."""
        if self.nominal:
            raise OnnxCbpError("the checkpoint is nominal: give the parameters values with copy_buffer_to_parameters")

    def _read(self, name: str) -> np.ndarray:
        if self._session is not None and self._is_live(name):
            return self._session.state.read(name)
        return np.array(self._contents.parameters[name])

    def _write(self, name: str, value: np.ndarray) -> None:
        old = self._contents.parameters[name]
        value = np.asarray(value)
        if value.shape != old.shape or value.dtype != old.dtype:
            raise OnnxCbpError(
                f"parameter '{name}' is {old.dtype}{list(old.shape)}, and the value {value.dtype}{list(value.shape)}: "
                "give it the same type and shape"
            )
        if self._session is not None and self._is_live(name):
            self._session.state.write(name, value)
        else:
            self._contents.parameters[name] = np.array(value)

    def _now(self, with_optimizer: bool) -> Checkpoint:
        """The present contents, for a file."""
        contents = self._contents
        optimizer = contents.optimizer
        if with_optimizer and self._session is not None:
            optimizer = self._session.state.remembered() or optimizer
        return Checkpoint(
            parameters={name: self._read(name) for name in contents.parameters},
            trained=tuple(self._trained()),
            nominal=contents.nominal,
            optimizer=optimizer if with_optimizer else None,
            properties=dict(contents.properties),
            random_state=self.random_state,
        )


def _give_shapes(contents: Checkpoint, program: Program) -> None:
    """Give the parameters of a nominal checkpoint the shapes of a module: ONNX Runtime's own has their names alone."""
    for name, array in contents.parameters.items():
        if name in program.values and not array.shape:
            contents.parameters[name] = np.zeros(program.shape(name), array.dtype)
