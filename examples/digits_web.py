"""Makes a static folder with a page that trains the sample ResNet on handwritten digits in the visitor's browser.

Run it from anywhere as `python examples/digits_web.py`, in an environment that has the package with the extras `cpu`
and `demo`, after `npm install onnxruntime-web`. Any web server shows the folder; `--serve` runs one. With `--check`
(pip install selenium, and chromium with its chromedriver) the page trains in a headless Chromium, beside the same graph
in onnxruntime for Python: one table, and a picture of the page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from handwritten import (
    BATCH,
    LEARNING_RATE,
    MODEL,
    Digits,
    Trained,
    check_extras,
    learning_rate,
    one_line_errors,
    png,
    table,
)
from headless import Page, draw_digit, open_page
from rich.console import Console

import onnx_cbp
from onnx_cbp.training import StepModel, generate_artifacts, step_model
from onnx_cbp.training.optimizers import AdamW

PAGE = Path(__file__).parent / "web"
#: What a page needs of the npm package: the one build that is for WebAssembly only.
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
#: How many test digits the page shows with what it takes them for.
SHOWN = 36
#: Over how many steps the losses of browser and Python must be one: rounding grows from step to step.
COMPARED, TOLERANCE = 10, 1e-4


@dataclass
class Prepared:
    """What a page is made of.

    Attributes:
        step: the graphs and the first state.
        digits: the data.
        order: of each step, which digits of `digits.train` are its batch: uint16 [steps, BATCH].
    """

    step: StepModel
    digits: Digits
    order: np.ndarray

    @classmethod
    def make(cls, epochs: int, seed: int) -> Prepared:
        """Generate the graphs, and split and shuffle the digits."""
        with tempfile.TemporaryDirectory() as folder:
            generate_artifacts(
                MODEL / "forward.onnx",
                loss="CrossEntropyLoss",
                optimizer=AdamW(),
                artifact_directory=folder,
                additional_output_names=["logits"],
                builder="onnx_cbp",
                rewrite_options={"portable": True},  # function bodies: a browser has no library of ours
            )
            step = step_model(folder)
        digits = Digits.load(seed)
        return cls(step, digits, np.array(digits.orders(epochs, seed), np.uint16))

    def write(self, folder: Path, runtime: Path) -> None:
        """Write the static folder.

        Args:
            folder: is made where it is not there; what is in it stays, but for the files that are written.
            runtime: the folder "dist" of the npm package onnxruntime-web.
        """
        evaluation = self.step.evaluation
        assert evaluation is not None
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
        (folder / "onnxruntime").mkdir(exist_ok=True)
        for name in RUNTIME:
            shutil.copy(runtime / name, folder / "onnxruntime" / name)
        onnx.save(self.step.model, folder / "step.onnx")
        onnx.save(evaluation, folder / "evaluation.onnx")
        fed = [value.name for value in evaluation.graph.input]
        about = {
            "learning_rate": LEARNING_RATE,
            "evaluate_every": len(self.digits.train[0]) // BATCH,
            "shown": SHOWN,
            "step": {
                "model": "step.onnx",
                "data": self.step.data,
                "learning_rate": self.step.learning_rate,
                "lazy_reset_grad": self.step.lazy_reset_grad,
                "following": self.step.following,
                "outputs": self.step.outputs,
            },
            "evaluation": {
                "model": "evaluation.onnx",
                "data": [name for name in fed if name in self.step.data],
                "state": [name for name in fed if name in self.step.state],
                "logits": "logits",
            },
            "state": _write_arrays(folder / "state.bin", self.step.state),
            "digits": _write_arrays(folder / "digits.bin", self._digits()),
        }
        (folder / "index.json").write_text(json.dumps(about, indent=1))

    def _digits(self) -> dict[str, np.ndarray]:
        (x, y), (x_test, y_test) = self.digits.train, self.digits.test
        images, labels = np.concatenate([x, x_test]), np.concatenate([y, y_test])
        return {
            "images": np.rint(images * 16).astype(np.uint8),
            "labels": labels.astype(np.uint8),
            "order": self.order,
            "test": np.arange(len(x), len(images), dtype=np.uint16),
        }

    def train(self, steps: int) -> tuple[Trained, dict[str, np.ndarray]]:
        """What the page does, in onnxruntime for Python and on one thread, as the page; also the last state."""
        import onnxruntime

        step, (x, y) = _session(self.step.model), self.digits.train
        names = [value.name for value in step.get_outputs()]
        state, losses, seconds = dict(self.step.state), [], []
        for index, order in enumerate(self.order[:steps]):
            rate = np.array([learning_rate(index, steps)], np.float32)
            feeds = {**state, **dict(zip(self.step.data, (x[order], y[order]), strict=True))}
            feeds |= {self.step.learning_rate: rate, self.step.lazy_reset_grad: np.array(True)}
            start = time.perf_counter()
            results = dict(zip(names, step.run(names, feeds), strict=True))
            seconds.append(time.perf_counter() - start)
            losses.append(float(results[self.step.outputs[0]]))
            state |= {name: results[after] for name, after in self.step.following.items()}
        scores, labels = self.logits(state, self.digits.test[0]), self.digits.test[1]
        name = f"onnxruntime {onnxruntime.__version__}, one thread"
        return Trained(name, losses, seconds, float((scores.argmax(1) == labels).mean())), state

    def logits(self, state: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
        """What the evaluation graph makes of images."""
        assert self.step.evaluation is not None
        session = _session(self.step.evaluation)
        feeds = {**state, **dict(zip(self.step.data, (images, np.zeros(len(images), np.int64)), strict=True))}
        fed = {value.name for value in session.get_inputs()}
        (logits,) = session.run(["logits"], {name: array for name, array in feeds.items() if name in fed})
        return logits


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write arrays into one file, each at a multiple of 8 bytes, and tell where they are."""
    entries: dict[str, Any] = {}
    with path.open("wb") as file:
        for name, array in arrays.items():
            file.write(bytes(-file.tell() % 8))
            entries[name] = {"type": str(array.dtype), "dims": list(array.shape), "offset": file.tell()}
            file.write(np.ascontiguousarray(array).tobytes())
    return {"file": path.name, "arrays": entries}


def trained_by(page: Page) -> Trained:
    """What came of the page's training, which begins when it is opened."""
    told = page.wait_until_trained()
    seconds = [milliseconds / 1e3 for milliseconds in told["milliseconds"]]
    return Trained(f"onnxruntime-web, {page.browser}", told["losses"], seconds, told["accuracy"])


def check(prepared: Prepared, folder: Path, picture: Path, console: Console) -> None:
    """Train in a headless Chromium and in Python, print the table and save a picture of the page.

    Raises:
        OnnxCbpError: there is no Chromium, the page failed, or its losses are others.
    """
    with console.status("training in Chromium"), open_page(folder) as page:
        web = trained_by(page)
        draw_digit(page, 3)
        page.picture(picture)
    with console.status("training in Python"):
        python, _ = prepared.train(len(web.losses))
    apart = float(np.abs(np.subtract(web.losses, python.losses))[:COMPARED].max())
    last = (f"loss of the first {COMPARED} steps: difference", f"{apart:.1e}", "")
    console.print(table([web, python], last))
    console.print(f"what the page looks like: {picture}")
    if not apart < TOLERANCE:  # NaN, too
        raise onnx_cbp.OnnxCbpError(f"the losses in the browser differ from Python's by {apart:.1e}")


def runtime_in(folder: Path | None) -> Path:
    """The folder "dist" of the npm package onnxruntime-web, in a folder that npm installed into.

    Raises:
        OnnxCbpError: it is not there.
    """
    found = (folder or Path()) / "node_modules" / "onnxruntime-web" / "dist"
    missing = [name for name in RUNTIME if not (found / name).is_file()]
    if missing:
        raise onnx_cbp.OnnxCbpError(
            f"'{found}' has no {missing[0]}: npm install --prefix FOLDER onnxruntime-web, and name it by --npm FOLDER"
        )
    return found


@click.command()
@click.option(
    "--output",
    default="demo-web",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The static folder.",
)
@click.option("--npm", type=click.Path(path_type=Path), help="Where npm installed onnxruntime-web.  [default: here]")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of split and batches.")
@click.option("--check", "checked", is_flag=True, help="Train in a headless Chromium, compare with Python.")
@click.option(
    "--picture",
    default="demo-web.png",
    show_default=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=png,
    help="Where --check saves what the page looks like.",
)
@click.option("--serve", is_flag=True, help="Run Python's web server on the folder.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Of --serve.")
def main(
    output: Path, npm: Path | None, epochs: int, seed: int, checked: bool, picture: Path, serve: bool, port: int
) -> None:
    """Make a page that trains in the browser."""
    console = Console()
    with one_line_errors():
        check_extras("cpu,demo")
        runtime = runtime_in(npm)
        prepared = Prepared.make(epochs, seed)
        try:
            prepared.write(output, runtime)
        except OSError as error:
            raise onnx_cbp.OnnxCbpError(f"cannot write the page to '{output}': {error}") from error
        console.print(f"the page, for any web server: python -m http.server --directory {output}")
        if checked:
            check(prepared, output, picture, console)
    if serve:
        server = ("-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(output))
        sys.exit(subprocess.run([sys.executable, *server], check=False).returncode)


if __name__ == "__main__":
    main()
