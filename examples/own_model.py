"""A PyTorch network of one's own, trained and deployed without PyTorch: only its export needs that, and onnxscript.

pip install '.[cpu,torch]' onnxscript, and then `python examples/own_model.py`, in any folder: it writes into a new one.
Put your network in the place of `network`, and your data in the place of `samples`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from onnx_cbp.training import Artifacts, Trainer, generate_artifacts
from onnx_cbp.training.optimizers import AdamW

network = nn.Sequential(
    *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    *(nn.Flatten(), nn.Linear(16, 2)),
)


def samples(rng: np.random.Generator, number: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar that lies (0) or stands (1) somewhere; images [N, 1, 12, 12] and their labels."""
    x, labels = rng.normal(size=(number, 1, 12, 12)).astype(np.float32), rng.integers(0, 2, number)
    for image, label, at in zip(x, labels, rng.integers(0, 12, number), strict=True):
        bar = image[0] if label == 0 else image[0].T
        bar[at] += 1.5
    return x, labels


def main(folder: Path, steps: int = 150, seed: int = 0) -> tuple[float, float]:
    """Export, train and deploy; the accuracy of the trained and of the deployed network on new samples."""
    torch.manual_seed(seed)
    batch = {0: torch.export.Dim("N", min=2)}  # any number of samples
    # optimize=False: PyTorch's exporter would fold batch norms, which then could not train.
    torch.onnx.export(
        network.train(),
        (torch.zeros(4, 1, 12, 12),),
        str(folder / "forward.onnx"),
        dynamo=True,
        optimize=False,
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes=(batch,),
    )
    generate_artifacts(
        folder / "forward.onnx",
        loss="CrossEntropyLoss",
        optimizer=AdamW(),
        artifact_directory=folder,
        train_batch_norms="*",  # the exporter writes all of them as if they did not train
        builder="onnx_cbp",
    )
    trainer = Trainer.load(Artifacts.in_folder(folder))
    trainer.optimizer.set_learning_rate(0.01)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        loss = trainer.step(samples(rng))
        if step % 50 == 0:
            print(f"step {step}: loss {loss:.3f}")
    trainer.module.export_model_for_inferencing(str(folder / "deployed.onnx"), ["logits"])
    session = onnxruntime.InferenceSession(str(folder / "deployed.onnx"), providers=["CPUExecutionProvider"])
    x, labels = samples(rng, 500)
    (logits,) = session.run(None, {"x": x})
    return float(loss), float((logits.argmax(1) == labels).mean())


if __name__ == "__main__":
    made = Path(tempfile.mkdtemp())
    print(f"loss at the end {{:.3f}}, accuracy {{:.1%}}: {made / 'deployed.onnx'}".format(*main(made)))
