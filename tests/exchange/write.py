"""Writes models that this environment rewrote, with the results that they must give anywhere.

python tests/exchange/write.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

import onnx_cbp  # noqa: E402
from support.models import FORWARD, fresh_batch_norm, parse  # noqa: E402
from support.ops import session  # noqa: E402


def main(folder: Path) -> None:
    """Write every model as NAME.onnx and NAME.npz: inputs ("in/...") and results ("out/...")."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    models = {
        "float": parse(FORWARD),
        "double": parse(FORWARD.replace("float[", "double[")),
        "fresh": fresh_batch_norm(0.9, channels=3),
    }
    for name, model in models.items():
        kind = np.float64 if name == "double" else np.float32
        feeds = {}
        for value in model.graph.input:
            shape = [d.dim_value or 4 for d in value.type.tensor_type.shape.dim]
            feeds[value.name] = rng.uniform(0.5, 3.0, shape).astype(kind)
        for portable in (False, True):
            rewritten = onnx_cbp.rewrite(model, portable=portable)
            outputs = session(rewritten, None if portable else "auto").run(None, feeds)
            stem = folder / (f"{name}_portable" if portable else name)
            onnx.save(rewritten, stem.with_suffix(".onnx"))
            results = {f"out/{o.name}": v for o, v in zip(model.graph.output, outputs, strict=True)}
            np.savez(stem.with_suffix(".npz"), **{f"in/{n}": v for n, v in feeds.items()}, **results)
    training = TESTS.parent / "models" / "resnet_digits" / "training_model.onnx"
    onnx.save(onnx_cbp.rewrite(training), folder / "resnet_digits.training.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
