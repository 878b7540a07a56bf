"""Makes double_backward.npz: PyTorch's double backward of a batch norm in float64. Needs PyTorch; the tests do not.

python tests/data/make_double_backward.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

EPSILON = 1e-3


def main() -> None:
    """Differentiate <V, dL/dX> with respect to X, scale and dY, for a batch norm Y of X and L = <dY, Y>."""
    torch.manual_seed(0)
    arrays = {}
    for name, shape in (("rank2", (7, 3)), ("rank3", (4, 3, 5)), ("rank4", (3, 2, 4, 5))):
        channels = shape[1]
        X, dY, V = (torch.randn(shape, dtype=torch.float64) * 1.5 + 0.5 for _ in range(3))
        scale, B = (torch.randn(channels, dtype=torch.float64) + 1.0 for _ in range(2))
        inputs = [t.requires_grad_() for t in (X, scale, dY)]
        Y = torch.nn.functional.batch_norm(X, None, None, scale, B, training=True, eps=EPSILON)
        (dX,) = torch.autograd.grad((dY * Y).sum(), X, create_graph=True)
        second = torch.autograd.grad((V * dX).sum(), inputs, retain_graph=True)
        penalty = torch.autograd.grad((dX**2).sum() / 2, inputs)
        results = {"X": X, "scale": scale, "dY": dY, "V": V, "dX": dX}
        results |= {f"hvp_{n}": t for n, t in zip(("X", "scale", "dY"), second, strict=True)}
        results |= {f"penalty_{n}": t for n, t in zip(("X", "scale", "dY"), penalty, strict=True)}
        arrays |= {f"{name}/{key}": value.detach().numpy() for key, value in results.items()}
    np.savez_compressed(Path(__file__).parent / "double_backward.npz", **arrays)


if __name__ == "__main__":
    main()
