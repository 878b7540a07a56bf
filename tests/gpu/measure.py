"""Measures the CUDA kernels on the batch norms of ResNet-50: bandwidth against a read and a copy, time against PyTorch.

    PYTHONPATH=tests python tests/gpu/measure.py --json gpu.json

The bytes of a kernel are those that it cannot do without: X as often as it has to go through it. So a kernel that
keeps a part in a cache can show more than the bandwidth of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contenders import Shape, Work
from timing import medians

from onnx_cbp.bench.shapes import load_shapes
from support.gpu.cuda import Kernels, installed_library, why_no_gpu

BATCH = 256
ROUNDS = 9
TURN = 20.0  # milliseconds
BANDWIDTH, TORCH, TORCH_RELU = 0.9, 1.0, 1.5


@dataclass(frozen=True)
class Row:
    """What was measured of one kernel on one shape."""

    shape: str
    dimensions: tuple[int, ...]
    dtype: str
    kernel: str
    milliseconds: float
    gigabytes_per_second: float
    #: Against a read of X where the kernel writes no such array, else against a copy.
    of_bandwidth: float
    #: PyTorch's time over ours; None where PyTorch does not have it on this device.
    against_torch: float | None
    relu: bool
    #: Whether the results are PyTorch's, to rounding; None where PyTorch does not have it on this device.
    right: bool | None
    #: "NCHW" or "NHWC".
    layout: str = "NCHW"
    #: cuDNN's time over ours; None where it has no such call.
    against_cudnn: float | None = None

    @property
    def reached(self) -> dict[str, bool]:
        """Which of the figures that are aimed at are reached."""
        found = {f">= {BANDWIDTH:.0%} of bandwidth": self.of_bandwidth >= BANDWIDTH}
        if self.against_torch is not None:
            figure = TORCH_RELU if self.relu else TORCH
            found[f">= {figure}x PyTorch{', ReLU folded' if self.relu else ''}"] = self.against_torch >= figure
        return found


def measure(kernels: Kernels, device: str, dtypes: Sequence[str], *, batch: int, quick: bool, rounds: int) -> list[Row]:
    """A row for every kernel, shape and type."""
    rows = []
    for dtype in dtypes:
        for entry in load_shapes("resnet50").shapes:
            dimensions = (batch, *(entry.quick() if quick else entry).dimensions[1:])
            for layout in ("NCHW", "NHWC"):
                shape = Shape(kernels, device, dimensions, dtype, channels_last=layout == "NHWC")
                rows += _rows(f"{entry.name} {layout}", dimensions, dtype, shape, device, rounds)
    return rows


def _rows(name: str, dimensions: tuple[int, ...], dtype: str, shape: Shape, device: str, rounds: int) -> list[Row]:
    rows = []
    for work in shape.work():
        contenders = {"read": shape.read, "copy": shape.copy, "ours": work.ours}
        compared = _runs(work, device)
        right = shape.is_right(work) if compared else None
        if compared:
            contenders["torch"] = work.torch
        if work.cudnn is not None and device == "cuda":
            contenders["cudnn"] = work.cudnn
        time = medians(device, contenders, rounds=rounds, budget=TURN)
        reference, passes = ("copy", 2) if work.writes else ("read", 1)
        needed = (work.reads + work.writes) * shape.bytes
        speed = needed / time["ours"] / 1e6
        rows.append(
            Row(
                *(name, dimensions, dtype, work.name, time["ours"], speed),
                of_bandwidth=speed / (passes * shape.bytes / time[reference] / 1e6),
                against_torch=time["torch"] / time["ours"] if "torch" in time else None,
                relu=work.relu,
                right=right,
                layout=name.split()[-1],
                against_cudnn=time["cudnn"] / time["ours"] if "cudnn" in time else None,
            )
        )
    return rows


def _runs(work: Work, device: str) -> bool:
    """Whether PyTorch has it on this device: some are for GPUs alone."""
    try:
        work.torch()
    except NotImplementedError:
        if device == "cuda":
            raise
        return False
    return True


def show(rows: Sequence[Row], title: str) -> None:
    """One table, and below it how many rows reach each figure."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("shape", "type", "kernel"):
        table.add_column(column, no_wrap=True)
    for column in ("ms", "GB/s", "of bandwidth", "against PyTorch", "against cuDNN", "reached"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        against = "-" if row.against_torch is None else f"{row.against_torch:.2f}x"
        cudnn = "-" if row.against_cudnn is None else f"{row.against_cudnn:.2f}x"
        table.add_row(
            *(f"{row.shape} {list(row.dimensions)}", row.dtype, row.kernel, f"{row.milliseconds:.3f}"),
            *(f"{row.gigabytes_per_second:.0f}", f"{row.of_bandwidth:.0%}", against, cudnn),
            " ".join("yes" if value else "no" for value in row.reached.values()) if row.right is not False else "WRONG",
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for figure in dict.fromkeys(name for row in rows for name in row.reached):
        of = [row.reached[figure] for row in rows if figure in row.reached]
        print(f"{figure}: {sum(of)} of {len(of)} rows")


def save(rows: Sequence[Row], path: Path, machine: dict[str, Any]) -> None:
    """The rows with what they were measured on."""
    listed = [{**asdict(row), "reached": row.reached} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "rows": listed}, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Measure on the GPU; 1 where a result is wrong, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="where the rows go")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--dtype", action="append", choices=["float32", "float16", "bfloat16"])
    options = parser.parse_args()
    reason = why_no_gpu()
    if reason is not None:
        print(f"the kernels cannot be measured: {reason}", file=sys.stderr)
        return 2
    import torch

    library = installed_library()
    assert library is not None
    dtypes = options.dtype or ["float32", "bfloat16"]
    rows = measure(Kernels(library), "cuda", dtypes, batch=options.batch, quick=False, rounds=ROUNDS)
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
    show(rows, f"CUDA kernels, {machine['gpu']}, PyTorch {machine['torch']}")
    save(rows, options.json, machine)
    print(f"written to {options.json}")
    wrong = [f"{row.kernel} on {list(row.dimensions)}, {row.dtype}" for row in rows if row.right is False]
    if wrong:
        print(f"not PyTorch's results: {'; '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
