"""Gradients of the sample models in float64, by PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from architectures import ARCHITECTURES

from onnx_cbp.training.compare import Batch


def in_float64(name: str) -> Callable[[Mapping[str, np.ndarray], Batch], dict[str, np.ndarray]]:
    """A function of a state of the sample model, by name, and a batch: the gradient of each parameter."""
    fresh = ARCHITECTURES[name]()[0].double().train()

    def gradients(state: Mapping[str, np.ndarray], batch: Batch) -> dict[str, np.ndarray]:
        network = copy.deepcopy(fresh)
        values = {key: torch.tensor(value).double() for key, value in state.items()}
        missing, _ = network.load_state_dict(values, strict=False)
        assert all(key.endswith("num_batches_tracked") for key in missing), missing
        *x, labels = map(torch.tensor, batch)
        torch.nn.functional.cross_entropy(network(*(value.double() for value in x)), labels).backward()
        return {key: value.grad.numpy() for key, value in network.named_parameters()}

    return gradients
