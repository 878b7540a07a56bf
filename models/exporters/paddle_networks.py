"""Small networks as paddle2onnx 2.1 exports them from Paddle 3.3, in training mode and for inference.

python models/exporters/paddle_networks.py [FOLDER]      needs paddlepaddle and paddle2onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import paddle
from expected import CLASSES, SHAPES, batch, by_initializers, fresh, initializers_of, write
from paddle import nn

#: By form, use_global_stats of the batch norms: None, as they are by default, is exported in inference form in training
#: mode, too, and False in training form.
FORMS = {"training": None, "batch_statistics": False}


class Pooled(nn.Layer):
    """The mean over everything behind the channels."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C, ...] -> [N, C]."""
        return x.flatten(2).mean(2)


def network(name: str, given: bool | None = None) -> nn.Sequential:
    """A network whose parameters and statistics are not those of a fresh one."""
    layers = {
        "image": lambda: (
            *(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4, use_global_stats=given), nn.ReLU()),
            *(
                nn.Conv2D(4, 4, 3, padding=1, groups=4),
                nn.BatchNorm2D(4, momentum=0.7, use_global_stats=given),
                nn.ReLU6(),
            ),
            *(
                Pooled(),
                nn.Linear(4, 5),
                nn.BatchNorm1D(5, epsilon=1e-3, use_global_stats=given),
                nn.ReLU(),
                nn.Linear(5, CLASSES),
            ),
        ),
        "signal": lambda: (
            *(nn.Conv1D(3, 4, 3, dilation=2), nn.BatchNorm1D(4, use_global_stats=given), nn.ReLU()),
            *(
                nn.Conv1D(4, 5, 3, bias_attr=False),
                nn.BatchNorm1D(5, use_global_stats=given),
                nn.ReLU(),
                Pooled(),
                nn.Linear(5, CLASSES),
            ),
        ),
        "volume": lambda: (
            *(nn.Conv3D(2, 4, 3, padding=1, bias_attr=False), nn.BatchNorm3D(4, use_global_stats=given), nn.ReLU()),
            *(
                nn.Conv3D(4, 3, 3, stride=2),
                nn.BatchNorm3D(3, use_global_stats=given),
                nn.ReLU(),
                Pooled(),
                nn.Linear(3, CLASSES),
            ),
        ),
    }[name]()
    net = nn.Sequential(*layers)
    for i, (key, value) in enumerate(net.state_dict().items()):
        value.set_value(fresh(i, key, tuple(value.shape)).astype(str(value.numpy().dtype)))
    return net


def results(name: str, x: np.ndarray, labels: np.ndarray) -> dict:
    """What Paddle computes in float64."""
    found: dict = {"x": x, "labels": labels}
    for mode in ("frozen", "train"):
        paddle.set_default_dtype("float64")
        net = network(name)
        paddle.set_default_dtype("float32")
        net.train() if mode == "train" else net.eval()
        logits = net(paddle.to_tensor(x.astype(np.float64)))
        loss = nn.functional.cross_entropy(logits, paddle.to_tensor(labels))
        loss.backward()
        found["eval/output" if mode == "frozen" else "train/output"] = logits.numpy()
        found[f"{mode}/loss"] = float(loss)
        trained = [(key, value) for key, value in net.named_parameters() if not value.stop_gradient]
        found[f"{mode}/gradient"] = {key: value.grad.numpy() for key, value in trained}
    statistics = [(key, value) for key, value in net.state_dict().items() if value.stop_gradient]
    found["train/running"] = {key: value.numpy() for key, value in statistics}
    return found


def kept(model: onnx.ModelProto, net: nn.Sequential, found: dict) -> dict:
    """The results that a file can be held against: one whose batch norms are folded has other parameters."""
    held = {key: value.numpy() for key, value in net.state_dict().items()}
    lost = [name for name in held if name not in initializers_of(model, held)]
    print("not in the file:", lost)
    if any(not name.endswith(("_mean", "_variance")) for name in lost):
        return {key: value for key, value in found.items() if key in ("x", "labels", "eval/output", "frozen/loss")}
    if lost:
        found = {key: value for key, value in found.items() if not key.startswith(("eval", "frozen", "train/running"))}
    return {k: by_initializers(model, held, v) if isinstance(v, dict) else v for k, v in found.items()}


def main(folder: Path) -> None:
    """Write all of them."""
    for name in SHAPES:
        x, labels = batch(name)
        found = results(name, x, labels)
        for form, given in FORMS.items():
            net = network(name, given)
            path = folder / f"paddle_{form}_{name}.onnx"
            spec = [paddle.static.InputSpec([None, *x.shape[1:]], "float32", "x")]
            paddle.onnx.export(net, str(path.with_suffix("")), input_spec=spec, opset_version=17)
            write(path.with_suffix(".npz"), kept(onnx.load(path), net, found))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "networks")
