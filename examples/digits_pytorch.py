"""The training of digits.py in PyTorch: digits.py starts it in a Python that has PyTorch, numpy and nothing else.

It reads weights.npz and data.npz from the folder that it is given, and writes pytorch.json into it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))

from architectures import resnet_digits


def main(folder: Path) -> None:
    """Train as digits.py does: the same weights, batches and learning rates."""
    module, _ = resnet_digits.make()
    with np.load(folder / "weights.npz") as weights:
        module.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files}, strict=False)
    with np.load(folder / "data.npz") as data:
        arrays = {name: data[name] for name in data.files}
    optimizer = torch.optim.AdamW(module.parameters())
    losses, seconds = [], []
    for x, y, rate in zip(arrays["x"], arrays["y"], arrays["rates"], strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        seconds.append(time.perf_counter() - start)
    with torch.no_grad():
        predicted = module.eval()(torch.from_numpy(arrays["x_test"])).argmax(1).numpy()
    result = {
        "runtime": f"PyTorch {torch.__version__}",
        "losses": losses,
        "seconds": seconds,
        "accuracy": float((predicted == arrays["y_test"]).mean()),
    }
    (folder / "pytorch.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
