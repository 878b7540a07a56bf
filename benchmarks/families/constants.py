"""PyTorch in double with the constants of a file of floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode


class ConstantsAsFloats(TorchFunctionMode):
    """Within it every number that PyTorch is given with tensors is rounded to 24 bits, as exporters write it.

    A Gelu is what the older exporter writes for it, with the constant that our rule for Erf has.
    """

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = [_float(each) for each in args], {key: _float(each) for key, each in (kwargs or {}).items()}
        if function is torch.nn.functional.gelu and kwargs.get("approximate", "none") == "none":
            return args[0] * (_Erf.apply(args[0] / _float(math.sqrt(2))) + 1) * 0.5
        return function(*args, **kwargs)


class _Erf(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return torch.special.erf(x)

    @staticmethod
    def backward(context: Any, dy: torch.Tensor) -> torch.Tensor:
        (x,) = context.saved_tensors
        return dy * torch.exp(-x * x) * _float(2 / math.sqrt(math.pi))


def _float(value: Any) -> Any:
    return float(np.float32(value)) if type(value) is float else value
