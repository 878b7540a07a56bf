"""Workers: one process for each library of each interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from onnx_cbp.errors import OnnxCbpError

#: The path of the worker: it runs in other interpreters, which need not have this package.
WORKER = Path(__file__).parent / "worker.py"
#: Freed memory stays with the process: page faults in fresh results would cost more than many a kernel.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}


class WorkerError(Exception):
    """The error of a worker, in one line."""


@dataclass(frozen=True)
class Runtime:
    """A library in an interpreter."""

    name: str
    python: str
    library: str


class Worker:
    """A process with one library; it does one thing at a time.

    Args:
        runtime: its library and interpreter.
        script: the worker's script.
        environment: variables in addition to those of this process.
    """

    def __init__(self, runtime: Runtime, script: Path = WORKER, environment: Mapping[str, str] = KEEP_MEMORY) -> None:
        self.runtime = runtime
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                [runtime.python, str(script), runtime.library],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **environment},
                text=True,
            )
        except OSError as error:
            self._stderr.close()
            raise OnnxCbpError(
                f"runtime '{runtime.name}': '{runtime.python}' cannot be run: {error.strerror}; name a Python "
                "interpreter"
            ) from None
        try:
            self.versions = self._read()
        except WorkerError as error:
            self.close()
            raise OnnxCbpError(
                f"runtime '{runtime.name}': '{runtime.python}' is no Python interpreter with numpy and a library to "
                f"measure: {error}"
            ) from None

    def ask(self, do: str, **details: Any) -> Mapping[str, Any]:
        """Send one command, and return the answer.

        Raises:
            WorkerError: the command failed.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # reading will show what happened
            print(json.dumps({"do": do, **details}), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise WorkerError(self._last_words(line)) from None
        if not isinstance(answer, dict):
            raise WorkerError(self._last_words(line))
        if "error" in answer:
            raise WorkerError(" ".join(str(answer["error"]).split()))
        return answer

    def _last_words(self, line: str) -> str:
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        if said:
            return said[-1]
        return f"it answers {line.strip()!r}" if line else f"it ended with status {self._process.wait()}"


def find_runtimes(named: Mapping[str, str]) -> list[Runtime]:
    """The libraries to measure against: those of this interpreter, and of the named ones.

    Raises:
        OnnxCbpError: an interpreter that cannot be run or has neither library.
    """
    found = []
    for name, python in {"this": sys.executable, **named}.items():
        with Worker(Runtime(name, python, "probe")) as probe:
            libraries = [library for library in ("onnxruntime", "torch") if probe.versions.get(library)]
        if not libraries:
            raise OnnxCbpError(f"runtime '{name}': '{python}' has neither onnxruntime nor torch")
        only = len(libraries) == 1
        for library in libraries:
            found.append(Runtime(name if only or name == library else f"{name} {library}", python, library))
    return found
