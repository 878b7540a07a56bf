"""Builds the CUDA kernels, proves and measures them on this machine's GPU: `make gpu-check`.

Needs a GPU, a CUDA toolkit (nvcc), a C++ compiler, and PyTorch in the Python that runs this. Everything else is
installed into .venv-gpu, which sees that PyTorch. Ends with 0 where every result is right, with 1 where one is wrong or
a step failed, and with 2 where there is no GPU to run on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-gpu"
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
#: Whether PyTorch in this Python has a GPU, in a process of its own: the answer takes memory of the GPU.
_LOOK = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)"


@dataclass(frozen=True)
class Step:
    """A command that has to end with 0."""

    title: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> bool:
        """Whether it did."""
        print(f"\n== {self.title}", flush=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), **self.environment}
        return subprocess.run(self.command, check=False, cwd=ROOT, env=environment).returncode == 0


def why_not() -> str | None:
    """Why there is nothing to check here, in one line; None where there is."""
    if not find_spec("torch"):
        return f"{sys.executable} has no PyTorch: install one with CUDA, or name another Python with make PYTHON=..."
    if subprocess.run([sys.executable, "-c", _LOOK], check=False, capture_output=True).returncode != 0:
        return f"PyTorch in {sys.executable} finds no GPU"
    if shutil.which("nvcc") is None and "CUDACXX" not in os.environ:
        return "there is no nvcc: install the CUDA toolkit, or name its compiler with CUDACXX"
    return None


def make_environment(folder: Path) -> None:
    """A virtual environment that sees the PyTorch of this Python, which may be one of another environment."""
    if not (folder / "bin" / "pip").exists():
        venv.create(folder, with_pip=True, system_site_packages=True)
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "pytorch.pth").write_text(f"{Path(torch.origin).parents[1]}\n", encoding="utf-8")


def install() -> bool:
    """The package with CUDA kernels into the environment, with ONNX Runtime for GPUs where it can be had."""
    make_environment(ENVIRONMENT)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if not Step("Build and install", [*pip, ".[gpu]", "pytest>=8"]).run():
        print("onnxruntime-gpu cannot be installed here: sessions with the CUDA provider are left out")
        if not Step("Build and install", [*pip, ".[cpu]", "pytest>=8"]).run():
            return False
    # The version number does not tell two builds apart.
    return Step("Install this build", [*pip, "--no-deps", "--force-reinstall", ".", "./cmake/cuda_wheel"]).run()


def steps(python: Path, rows: Path, device: str = "cuda") -> list[Step]:
    """What is run once the package is installed, where `python` is."""
    # Not -m pytest: that puts this folder first, where the folder onnx_cbp is only a part of the package.
    pytest = [str(python), str(python.parent / "pytest"), "-q", "-rs", "-W", "default"]
    found = [Step("Every kernel against float64", [*pytest, "tests/gpu", "tests/cuda_adapter/test_library.py"])]
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        print("compute-sanitizer is not here: races and accesses out of bounds are not looked for")
    else:
        short = [*pytest, "tests/gpu/test_kernels.py", "-k", f"test_short and {device}"]
        for tool in SANITIZER_TOOLS:
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *short]
            # Each array is an allocation of its own, so that one cannot be written past its end into another.
            found.append(Step(f"compute-sanitizer, {tool}", command, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}))
    found.append(Step("Measure", [str(python), "tests/gpu/measure.py", "--json", str(rows)]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, and answer the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--json", type=Path, default=ROOT / "build" / "gpu_check.json", help="where what is measured goes"
    )
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"the CUDA kernels cannot be checked here: {reason}", file=sys.stderr)
        return 2
    if not install():
        print("\nthe package could not be installed", file=sys.stderr)
        return 1
    failed = [step.title for step in steps(ENVIRONMENT / "bin" / "python", options.json) if not step.run()]
    print("\n" + (f"failed: {'; '.join(failed)}" if failed else "every result is right"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
