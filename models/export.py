"""Exports the sample networks and makes ONNX Runtime training artifacts of them. Needs PyTorch; see README.md.

Run it as `python models/export.py resnet_digits` or `python models/export.py --all`: the same versions of PyTorch and
ONNX Runtime write the same bytes. What is too large for git, ResNet-18, goes into benchmarks/models/.
"""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import click
import onnx

try:
    import torch
    from onnxruntime.training import artifacts, onnxblock
except ImportError as error:
    raise SystemExit(f"export.py: {error}; models/README.md says what to install") from error

from architectures import ARCHITECTURES, LARGE

FOLDER = Path(__file__).parent
FOLDER_OF_LARGE = FOLDER.parent / "benchmarks" / "models"
SEED = 0
OPSET = 17


def export_forward(module: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """The forward graph in training mode, batch norms whole: what the legacy exporter writes."""
    file = io.BytesIO()
    start = {name: value.detach().clone().numpy() for name, value in module.state_dict().items()}
    with warnings.catch_warnings():
        # Deprecated, but PyTorch's newer exporter writes batch norms in inference form only.
        warnings.simplefilter("ignore", DeprecationWarning)
        # It counts the batches in a buffer that nothing reads; the count is left out on purpose.
        warnings.filterwarnings("ignore", message=".*num_batches_tracked", category=UserWarning)
        torch.onnx.export(
            module.train(),
            (example,),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
        )
    forward = onnx.load_from_string(file.getvalue())
    for tensor in forward.graph.initializer:
        # The exporter runs the network once, and in training mode that moves the running statistics.
        if tensor.name in start:
            tensor.CopyFrom(onnx.numpy_helper.from_array(start[tensor.name], tensor.name))
    return forward


class CrossEntropyLoss(onnxblock.loss.CrossEntropyLoss):
    """ONNX Runtime's cross entropy, with labels of the shape that the loss reads.

    It declares the labels as the logits without their last dimension. The classes are in the second one: logits
    [N, C, H, W] are judged by labels [N, H, W], and a graph with the declared ones refuses them.
    """

    def build(self, scores_input_name: str, labels_name: str = "labels") -> str:
        """Append the loss to the graph under construction; the name of its output."""
        loss = super().build(scores_input_name, labels_name)
        values = {value.name: value for value in (*self.base.graph.input, *self.base.graph.output)}
        shape = values[labels_name].type.tensor_type.shape
        shape.CopyFrom(values[scores_input_name].type.tensor_type.shape)
        del shape.dim[1]
        return loss


def generate(forward: onnx.ModelProto, folder: Path) -> None:
    """Training, evaluation and optimiser graphs and the checkpoint, from a forward graph."""
    folder.mkdir(parents=True, exist_ok=True)  # generate_artifacts wants it to be there
    names = [tensor.name for tensor in forward.graph.initializer]
    statistics = [name for name in names if name.endswith(("running_mean", "running_var"))]
    trained = [name for name in names if name not in statistics and "num_batches_tracked" not in name]
    artifacts.generate_artifacts(
        forward,
        requires_grad=trained,
        frozen_params=statistics,  # so that they are parameters of the checkpoint, which a step can update
        loss=CrossEntropyLoss(),
        optimizer=artifacts.OptimType.AdamW,
        artifact_directory=str(folder),
        additional_output_names=["logits"],
    )


def repair_eval_model(path: Path) -> None:
    """Make the evaluation graph load.

    generate_artifacts sets training_mode to 0 and leaves the two outputs, running mean and variance, that a batch norm
    has in training form only; ONNX Runtime then refuses its own graph.
    """
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:]
    onnx.save(model, path)


def export(name: str) -> None:
    """Export one network into the folder of its name."""
    torch.manual_seed(SEED)
    module, example = ARCHITECTURES[name]()
    folder = (FOLDER_OF_LARGE if name in LARGE else FOLDER) / name
    forward = export_forward(module, example)
    generate(forward, folder)
    onnx.save(forward, folder / "forward.onnx")
    repair_eval_model(folder / "eval_model.onnx")
    size = sum(file.stat().st_size for file in folder.iterdir())
    click.echo(f"{folder}: {size / 1e6:.2f} MB")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(ARCHITECTURES)))
@click.option("--all", "every", is_flag=True, help="Export every network that git keeps.")
def main(names: tuple[str, ...], every: bool) -> None:
    """Export the networks NAMES into folders of their names beside this script, large ones into benchmarks/models."""
    if bool(names) == every:
        raise click.UsageError(f"name networks ({', '.join(sorted(ARCHITECTURES))}), or say --all")
    names = tuple(sorted(ARCHITECTURES.keys() - LARGE)) if every else names
    if len(names) == 1:
        export(names[0])
        return
    for name in names:
        # ONNX Runtime numbers the names that it makes up over all graphs of a process: to each network its own.
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
