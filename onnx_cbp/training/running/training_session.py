"""Runs training steps: decides which graph runs when, and holds the state that they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from onnx_cbp.distributed import is_initialized, rank
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.stepping.flatten_state import GRADIENTS, LAZY_RESET_GRAD, PARAMETERS, following, own
from onnx_cbp.graph_passes.stepping.parts import Cuts, given
from onnx_cbp.graph_passes.stepping.vector_layout import VectorLayout
from onnx_cbp.training.checkpoints import Checkpoint, OptimizerState
from onnx_cbp.training.running.buffers import Buffer, Device
from onnx_cbp.training.running.program import OptimizerProgram, Program
from onnx_cbp.training.running.sessions import BoundSession

LEARNING_RATE, STEP = own("learning_rate"), own("step")
_FIRST_LEARNING_RATE = 1e-3  # as in ONNX Runtime
#: What is between the random states of two replicas, each of which grows by 1 a step.
_BETWEEN_REPLICAS = 2**40
#: With more parameters, copies of them would be most of the memory: a step is two runs, which write over the state, and
#: on the processor nothing is copied into vectors, or out of them.
_MOST_JOINED = 2**20
#: So many elements at once go through an optimiser then: what it computes on the way stays in the caches. A multiple of
#: what vector instructions take, since older versions of ONNX Runtime round square roots otherwise in a rest.
_PART = 2**18


class TrainingState:
    """Everything that steps change, and the parameters that they do not change; several sessions may share it.

    Attributes:
        buffers: by the name of the input.
        optimizer: the optimiser attached last, whose slots are among the buffers.
        rate: the learning rate of the next step.
        ahead: the session whose last run computed the next parameters, and the version from which; None if the last run
            computed none.
        fixed: OrtValues by the name of the input.
        is_large: whether there is too much of it for a second copy.
        is_apart: whether graphs read and write every parameter and gradient where it lies in its vector.
        is_whole: False after a step that failed while it wrote over what it had read.
    """

    def __init__(self, program: Program, checkpoint: Checkpoint, device: Device) -> None:
        _fit(program, checkpoint)
        self.device = device
        self.program = program
        self.version = 0  # counts the changes, other than by runs, to what an optimiser reads
        self.optimizer: OptimizerProgram | None = None
        self.rate = _FIRST_LEARNING_RATE
        self.ahead: tuple[TrainingSession, int] | None = None
        self._rank = 0  # of the replica whose random state it is
        values = checkpoint.parameters
        self.buffers = {name: Buffer(layout.pack(values), device) for name, layout in program.groups.items()}
        for name in program.moved:
            seed = np.array([checkpoint.random_state or 0], np.int64)
            self.buffers[name] = Buffer(seed if name == program.graph.random_state else np.array(values[name]), device)
        self.fixed = {name: device.put(values[name]) for name in program.fixed}
        self.is_large, self.is_apart, self.is_whole = False, False, True
        if PARAMETERS in program.groups:
            layout = program.groups[PARAMETERS]
            self.is_large = layout.total > _MOST_JOINED
            self.is_apart = self.is_large and device.kind == "cpu"
            self.buffers[GRADIENTS] = Buffer(np.zeros(layout.total, layout.dtype), device)
            self.buffers[GRADIENTS].in_place = self.is_large

    def pieces(self, vector: np.ndarray) -> dict[str, Any]:
        """OrtValues by parameter that lie in a vector of parameters or gradients."""
        layout = self.program.groups[PARAMETERS]
        return {name: self.device.take(piece) for name, piece in layout.unpack(vector).items()}

    def apart(self) -> dict[str, Any]:
        """The parameters by name, where graphs read them apart."""
        return self.pieces(self.buffers[PARAMETERS].array) if self.is_apart else {}

    def attach(self, optimizer: OptimizerProgram, remembered: OptimizerState | None) -> None:
        """Have the slots of an optimiser: those that are there, those of an earlier training, or zeros.

        Raises:
            OnnxCbpError: one line: it is for other parameters, or the slots are those of another optimiser.
        """
        present = self.optimizer
        if present is None:
            self.buffers |= initial_memory(self.program, optimizer, remembered, self.device)
            if remembered is not None and remembered.learning_rate is not None:
                self.rate = remembered.learning_rate
        else:
            _check_size(self.program, optimizer)
            if (optimizer.kind, optimizer.slots) != (present.kind, present.slots):
                raise OnnxCbpError(
                    f"the state is that of {present.name} ({present.kind}) already, and {optimizer.name} is another "
                    f"optimizer ({optimizer.kind}): save a checkpoint with include_optimizer_state=False, and load it"
                )
        self.optimizer, self.ahead = optimizer, None

    def remembered(self) -> OptimizerState | None:
        """The state of the optimiser; None if there is no optimiser."""
        if self.optimizer is None:
            return None
        layout, step = self.program.groups[PARAMETERS], int(self.buffers[STEP].read()[0])
        slots = {slot: layout.unpack(self.buffers[own(slot)].read()) for slot in self.optimizer.slots}
        return OptimizerState(step, self.rate, slots, self.optimizer.kind)

    def names(self) -> list[str]:
        """The names of all parameters."""
        return self.program.graph.parameters

    def refuse_half(self) -> None:
        """Raise if a step has changed only a part of the state."""
        if not self.is_whole:
            raise OnnxCbpError("a step failed when it had written a part of its results: load the last checkpoint")

    def read(self, name: str) -> np.ndarray:
        """A copy of a parameter."""
        self.refuse_half()
        group, layout = self._group(name)
        if layout is not None:
            return np.array(layout.piece(self.buffers[group].array, name))
        return self.buffers[name].read() if name in self.buffers else np.array(self.fixed[name].numpy())

    def write(self, name: str, value: np.ndarray) -> None:
        """Give a parameter another value, of its type and shape."""
        self.version += 1
        group, layout = self._group(name)
        if layout is not None:
            vector = self.buffers[group].array
            layout.piece(vector, name)[...] = value
            if self.device.kind != "cpu":  # there it was a copy
                self.buffers[group].write(vector)
        elif name in self.buffers:
            self.buffers[name].write(value)
        else:
            self.fixed[name].update_inplace(np.ascontiguousarray(value))

    def gradient(self, name: str) -> np.ndarray:
        """A copy of the gradient of a parameter that trains."""
        return np.array(self.program.groups[PARAMETERS].piece(self.buffers[GRADIENTS].array, name))

    def random_state(self) -> int | None:
        """The state of the random generator."""
        name = self.program.graph.random_state
        return None if name is None else _as_int64(int(self.buffers[name].read()[0]) - self._rank * _BETWEEN_REPLICAS)

    def seed(self, value: int) -> None:
        """Set the state of the random generator."""
        name = self.program.graph.random_state
        if name is not None:
            self.buffers[name].write(np.array([_as_int64(value + self._rank * _BETWEEN_REPLICAS)], np.int64))

    def differ_from_other_replicas(self) -> None:
        """Have other random numbers than the other replicas, if this is one; what is saved is the same for all."""
        now = rank() if is_initialized() else 0
        if now != self._rank:
            value, self._rank = self.random_state(), now
            if value is not None:
                self.seed(value)

    def _group(self, name: str) -> tuple[str, VectorLayout | None]:
        for group, layout in self.program.groups.items():
            if name in layout.shapes:
                return group, layout
        return "", None


class TrainingSession:
    """A training: sessions for its graphs, and its state.

    If a step follows each forward pass, then forward pass, backward pass and step are one run. That run computes the
    next parameters too, and `step` only makes them the current ones. If gradients are accumulated over several passes,
    or something was changed between a pass and its step, there are two runs, with the same result. So there are if
    there are many parameters: then each run writes over what it has read.

    Args:
        program: the graphs.
        state: what the graphs read and write.
        options, providers: of every session.
    """

    def __init__(self, program: Program, state: TrainingState, options: Any, providers: Sequence[Any]) -> None:
        self.program = program
        self.state = state
        self._options = options
        self._providers = providers
        self._sessions: dict[str, BoundSession] = {}
        self._optimizer: OptimizerProgram | None = None
        self._reset = True
        self._passes = 0
        self._joins = self._together = True
        self._cuts: Cuts | None = None  # where the optimiser is divided, if it takes the vectors in parts
        self._constants: dict[str, np.ndarray] = {}
        self._session("forward and backward")
        if program.evaluation_source is not None:
            self._session("evaluation")

    # --- Steps --------------------------------------------------------------------------------------------------------

    def train(self, fed: Mapping[str, Any], device: Device) -> list[Any]:
        """Forward and backward. The gradients are added to those that exist; after `reset` they replace them."""
        self.state.refuse_half()
        self.state.differ_from_other_replicas()
        together = self._optimizer is not None and self._together and not any(b.in_place for b in self._changed())
        session = self._session("step" if together else "forward and backward")
        reset = ort.OrtValue.ortvalue_from_numpy(np.array(self._reset))
        state = {**self.state.fixed, **self.state.apart()}
        everything = {**fed, **state, LAZY_RESET_GRAD: reset, LEARNING_RATE: self._learning_rate()}
        written, added = {}, None
        if self.state.is_apart:
            gradients = self.state.buffers[GRADIENTS].array
            added = None if self._reset else np.empty_like(gradients)
            pieces = self.state.pieces(gradients if added is None else added)
            written = {self.program.graph.gradients[name]: value for name, value in pieces.items()}
        self.state.ahead = None  # also if the run fails: it may have written over what was computed ahead
        results = session.run(everything, self.state.buffers, self.program.outputs, device, written)
        if added is not None:
            np.add(gradients, added, out=gradients)
        for name in (GRADIENTS, *self._moved()):
            self.state.buffers[name].turn()
        self._reset = False
        self._passes += 1
        self.state.ahead = (self, self.state.version) if together else None
        return results

    def evaluate(self, fed: Mapping[str, Any], device: Device) -> list[Any]:
        """Run the evaluation graph; no state changes."""
        self.state.refuse_half()
        session = self._session("evaluation")
        state = {**self.state.fixed, **self.state.apart()}
        return session.run({**fed, **state}, self.state.buffers, self.program.eval_outputs, device)

    def step(self) -> None:
        """Take the optimiser's step along the gradients."""
        assert self._optimizer is not None
        self.state.refuse_half()
        changed = self._changed()
        if self.state.ahead != (self, self.state.version):
            self.state.is_whole = not any(buffer.in_place for buffer in changed)
            self._optimize(self._optimizer)
            self.state.is_whole = True
        for buffer in changed:
            buffer.turn()
        self.state.ahead = None
        self._together = self._joins and self._passes <= 1
        self._passes = 0

    def _optimize(self, optimizer: OptimizerProgram) -> None:
        """Compute the next parameters and slots."""
        session, buffers, device = self._session("optimizer"), self.state.buffers, self.state.device
        fed = {LEARNING_RATE: self._learning_rate()}
        if self._cuts is None:
            session.run(fed, buffers, [], device)
            return
        if self._cuts.scalars:
            values = self._session("scalars").run(fed, buffers, self._cuts.scalars, device)
            fed |= zip(map(given, self._cuts.scalars), values, strict=True)
        vectors = {name: buffers[name].array for name in self._cuts.vectors} | self._constants
        for start in range(0, optimizer.elements, _PART):
            parts = {name: device.take(vector[start : start + _PART]) for name, vector in vectors.items()}
            written = {following(name): parts[name] for name in optimizer.changed}
            session.run({**fed, **parts}, {STEP: buffers[STEP]}, [], device, written)

    def _changed(self) -> list[Buffer]:
        """What a step of the optimiser changes."""
        assert self._optimizer is not None
        return [self.state.buffers[name] for name in (STEP, *self._optimizer.changed)]

    def reset(self) -> None:
        """Let the gradients of the next pass replace those that exist."""
        self._reset = True

    def _moved(self) -> list[str]:
        return [name for name in self.state.buffers if name in self.program.groups and name != PARAMETERS] + (
            self.program.moved
        )

    # --- The optimiser ------------------------------------------------------------------------------------------------

    def attach(self, optimizer: OptimizerProgram, remembered: OptimizerState | None) -> None:
        """Attach an optimiser, with its state: that of an earlier optimiser of this training, or what is remembered.

        Raises:
            OnnxCbpError: one line: it is for other parameters, or the state is that of another optimiser.
        """
        self.state.attach(optimizer, remembered)
        self._optimizer = optimizer
        self._joins = self._together = optimizer.opset == self.program.opset and not self.state.is_large
        self._cuts = optimizer.cuts if self.state.is_apart else None
        for name in optimizer.changed:
            self.state.buffers[name].in_place = not self._joins and name in optimizer.overwritten
        for kind in ("optimizer", "scalars", "step"):
            self._sessions.pop(kind, None)
        self._session("optimizer")
        self._constants = self._computed_once(optimizer)

    def _computed_once(self, optimizer: OptimizerProgram) -> dict[str, np.ndarray]:
        """The constants that an optimiser is given in parts, by the names of its inputs for them."""
        if self._cuts is None or not self._cuts.constants:
            return {}
        names = self._cuts.constants
        session = BoundSession(optimizer.name, optimizer.whole(names), self._options, self._providers)
        values = session.run({}, {}, names, self.state.device)
        return {given(name): np.array(value.numpy()) for name, value in zip(names, values, strict=True)}

    @property
    def steps(self) -> int:
        """The number of steps taken so far."""
        return int(self.state.buffers[STEP].read()[0])

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.state.rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        rate = float(np.float32(rate))  # as the graph is fed
        if rate != self.state.rate:
            self.state.rate = rate
            self.state.version += 1

    def _learning_rate(self) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.array([self.state.rate], np.float32))

    # --- Sessions -----------------------------------------------------------------------------------------------------

    def _session(self, kind: str) -> BoundSession:
        """The session of a kind, made at its first use.

        Two kinds hold the network, and each needs memory for every intermediate. So making one drops the other.
        """
        if kind not in self._sessions:
            program, name = self.program, self.program.name
            if kind == "evaluation":
                name, model = program.eval_name, program.evaluation(apart=self.state.is_apart)
            elif kind == "forward and backward":
                model = program.forward_backward(apart=self.state.is_apart)
                self._sessions.pop("step", None)
            else:
                assert self._optimizer is not None
                name, cuts = self._optimizer.name, self._cuts
                if kind == "step":
                    name, model = program.name, program.step(self._optimizer)
                    self._sessions.pop("forward and backward", None)
                elif cuts is None:
                    model = self._optimizer.alone()
                else:
                    scalars = kind == "scalars"
                    model = self._optimizer.whole(cuts.scalars) if scalars else self._optimizer.part(cuts)
            self._sessions[kind] = BoundSession(name, model, self._options, self._providers)
        return self._sessions[kind]


def _as_int64(value: int) -> int:
    """A number as int64 has it, which wraps around."""
    return (value + 2**63) % 2**64 - 2**63


def _fit(program: Program, checkpoint: Checkpoint) -> None:
    """Refuse the checkpoint of another network."""
    for name in program.graph.parameters:
        if name not in checkpoint.parameters:
            raise OnnxCbpError(
                f"the checkpoint has no '{name}', a parameter of {program.name}: load the one that belongs to it"
            )
        array = checkpoint.parameters[name]
        if array.shape != program.shape(name) or array.dtype != program.dtype(name):
            raise OnnxCbpError(
                f"'{name}' is {array.dtype}{list(array.shape)} in the checkpoint and {program.dtype(name)}"
                f"{list(program.shape(name))} in {program.name}: load the checkpoint that belongs to it"
            )


def _check_size(program: Program, optimizer: OptimizerProgram) -> None:
    total = program.groups[PARAMETERS].total
    if optimizer.elements != total:
        raise OnnxCbpError(
            f"{optimizer.name} is for {optimizer.elements} elements of parameters, and {program.name} trains {total}: "
            "use the two of one generate_artifacts"
        )


def initial_memory(
    program: Program, optimizer: OptimizerProgram, remembered: OptimizerState | None, device: Device
) -> dict[str, Buffer]:
    """Buffers for the state of an optimiser.

    Raises:
        OnnxCbpError: one line: it is for other parameters, or the state is that of another optimiser.
    """
    _check_size(program, optimizer)
    layout = program.groups[PARAMETERS]
    arrays = {own(slot): vector for slot, vector in _remembered(optimizer, remembered, layout).items()}
    arrays[STEP] = np.array([0 if remembered is None else remembered.step], np.int64)
    return {name: Buffer(array, device) for name, array in arrays.items()}


def _remembered(
    optimizer: OptimizerProgram, remembered: OptimizerState | None, layout: VectorLayout
) -> dict[str, np.ndarray]:
    if remembered is None:
        return {slot: np.zeros(layout.total, layout.dtype) for slot in optimizer.slots}
    own, other = optimizer.kind, remembered.kind
    if other is None:
        # ONNX Runtime writes moments for each of its optimisers: for SGD, which has none, they are zeros.
        moved = any(array.any() for arrays in remembered.slots.values() for array in arrays.values())
        other = "AdamW" if moved else own
    if own != other or not set(optimizer.slots) <= set(remembered.slots):
        raise OnnxCbpError(
            f"the checkpoint has the state of {other}, and {optimizer.name} is {own}: use the optimizer that it was "
            "saved with, or save it with include_optimizer_state=False"
        )
    for slot in optimizer.slots:
        missing = next((name for name in layout.shapes if name not in remembered.slots[slot]), None)
        if missing is not None:
            raise OnnxCbpError(
                f"the checkpoint has no {slot} of '{missing}': it was saved while other parameters trained: save it "
                "with include_optimizer_state=False"
            )
    return {slot: layout.pack(remembered.slots[slot]) for slot in optimizer.slots}
