"""Installs a wheel as a stranger does, and runs README's lines: `python stranger.py WHEEL`, with nothing but Python.

Into an empty environment, with no compiler to be found. It says how long that took: less than a minute, unless the
package index is slow or others use the machine, which is why a longer time is no failure.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

README = Path(__file__).parent / "readme.py"


def main(wheel: str) -> None:
    """Say what each step takes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "venv"
        python = str(folder / "bin" / "python")
        path = str(folder / "bin")
        # Nothing but what the environment brings: PYTHONPATH would bring this checkout.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["PATH"] = path
        for compiler in ("cc", "c++", "gcc", "g++", "clang", "cmake", "ninja", "nvcc"):
            environment.pop({"cc": "CC", "c++": "CXX", "nvcc": "CUDACXX"}.get(compiler, compiler), None)
            assert shutil.which(compiler, path=path) is None, f"there is a {compiler} in {path}"
        started = time.perf_counter()
        venv.create(folder, with_pip=True)
        made = time.perf_counter()
        install = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", f"{wheel}[cpu]"]
        subprocess.run(install, check=True, env=environment, cwd=scratch)
        installed = time.perf_counter()
        subprocess.run([python, str(README)], check=True, env=environment, cwd=scratch)
        ran = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{ran - started:.0f} s: an environment {made - started:.0f} s, the installation {installed - made:.0f} s, "
        f"README's lines {ran - installed:.0f} s; {used.ru_utime + used.ru_stime:.0f} s of a core"
    )


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()))
