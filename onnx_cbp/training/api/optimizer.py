"""An optimiser, as `onnxruntime.training.api.Optimizer` is one."""

from __future__ import annotations

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training.api.module import Module
from onnx_cbp.training.arguments import finite_number
from onnx_cbp.training.running.program import OptimizerProgram, Source


class Optimizer:
    """Moves the parameters of a module along their gradients.

    Its state and its learning rate are those of an earlier optimiser of the module's state, or come from the
    checkpoint, if they are there.

    Args:
        optimizer_uri: the optimizer model of `generate_artifacts`, or its path.
        module: the module.

    Raises:
        OnnxCbpError: one line: a file cannot be read or is not one of ours, or the state is that of another optimiser.
    """

    def __init__(self, optimizer_uri: Source, module: Module) -> None:
        if not isinstance(module, Module):
            raise OnnxCbpError(f"module: {module!r} is no Module: give the one whose parameters it moves")
        self._session = module._session
        contents = module._state._contents
        self._session.attach(OptimizerProgram(optimizer_uri), contents.optimizer)
        contents.optimizer = None  # the session has it now

    def step(self) -> None:
        """Take a step."""
        self._session.step()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next steps.

        Raises:
            OnnxCbpError: it is no finite number.
        """
        self._session.learning_rate = finite_number(learning_rate, "learning_rate")

    def get_learning_rate(self) -> float:
        """The learning rate of the next step; 0.001 at first, as in ONNX Runtime."""
        return self._session.learning_rate
