"""A learning rate that rises and falls in straight lines."""

from __future__ import annotations

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training.api.optimizer import Optimizer
from onnx_cbp.training.arguments import finite_number


class LinearLRScheduler:
    """Rises from 0 to `initial_lr` during the warm-up, and falls back to 0 in the remaining steps.

    It counts the steps that the optimiser has taken, and sets the rate of the next step when it is created. ONNX
    Runtime 1.19.2 confuses the two counts; here they mean what their names say.

    Args:
        optimizer: the optimiser whose rate it sets.
        warmup_step_count: the number of steps of the warm-up.
        total_step_count: the number of all steps.
        initial_lr: the largest rate.

    Raises:
        OnnxCbpError: the warm-up has more steps than the whole schedule, a count or the rate is no finite number, or
            the optimiser is none.
    """

    def __init__(self, optimizer: Optimizer, warmup_step_count: int, total_step_count: int, initial_lr: float) -> None:
        if not isinstance(optimizer, Optimizer):
            raise OnnxCbpError(f"optimizer: {optimizer!r} is no Optimizer: give the one whose learning rate it sets")
        initial_lr = finite_number(initial_lr, "initial_lr")
        for count, argument in ((warmup_step_count, "warmup_step_count"), (total_step_count, "total_step_count")):
            finite_number(count, argument, "1000")
        if not 0 <= warmup_step_count <= total_step_count:
            raise OnnxCbpError(
                f"warmup_step_count is {warmup_step_count} and total_step_count {total_step_count}: the first is "
                "a part of the second"
            )
        self._optimizer = optimizer
        self._warmup, self._total, self._initial = warmup_step_count, total_step_count, initial_lr
        self.step()

    def step(self) -> None:
        """Set the rate of the optimiser's next step; call it after each step."""
        self._optimizer.set_learning_rate(self._initial * self._factor(self._optimizer._session.steps))

    def _factor(self, step: int) -> float:
        if step < self._warmup:
            return step / self._warmup
        return max(0.0, (self._total - step) / max(1, self._total - self._warmup))
