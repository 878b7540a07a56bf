"""A replica that ends with an exception: the others hear its text at once, and do not wait for their time to be up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import onnx_cbp
from onnx_cbp import distributed
from onnx_cbp.distributed import membership
from support.programs.elsewhere import ELSEWHERE
from support.replicas import mpiexec

#: Far more than a test may take: nobody waits for it.
PATIENCE = 200.0
PROGRAM = f"""
import argparse, os, sys, threading, time
import numpy as np
from onnx_cbp import distributed
from onnx_cbp.distributed import membership

engine, how, options = sys.argv[1], sys.argv[2], {{}}
if engine == "torch":
    store = "file://" + os.environ["STORE"]
    options = dict(rank=int(os.environ["RANK"]), world_size=2, init_method=store)
distributed.initialize(engine, timeout={PATIENCE}, **options)
world, numbers = membership.current().world, np.ones(10)
world.all_reduce(numbers)

def fails():
    raise ValueError("a fault\\nof my own")

if world.rank == 1:
    if how == "exception":
        fails()
    elif how == "thread":
        threading.Thread(target=fails).start()
        time.sleep({PATIENCE})
    elif how == "interrupt":
        raise KeyboardInterrupt
    elif how == "SystemExit":
        sys.exit(0)
    elif how == "caught":
        try:
            sys.exit(3)
        except SystemExit as error:
            kept = error
        def inside():
            try:
                sys.exit(4)
            except SystemExit:
                pass
        inside()
        try:
            argparse.ArgumentParser().parse_args(["--unknown"])
        except SystemExit as error:
            assert error.code == 2 and type(error).__name__ and isinstance(error, SystemExit)
    elif how == "status":
        sys.exit(3)
    elif how == "text":
        with open(os.devnull):
            sys.exit("a fault\\nof my own")
    elif how == "arguments":
        argparse.ArgumentParser().parse_args(["--unknown"])
    elif how == "_exit":
        os._exit(3)
elif how in ("SystemExit", "caught"):
    time.sleep(0.5)  # it has left; nothing has failed
    print("a good end", flush=True)
elif how == "busy":
    time.sleep({PATIENCE})  # in no collective
else:
    try:
        world.all_reduce(numbers)
    except Exception as error:
        print("heard:", type(error).__name__, error, flush=True)
        raise
if how == "busy":
    fails()
"""


def _mpi(how: str) -> tuple[str, int, float]:
    start = time.monotonic()
    result = subprocess.run(
        [mpiexec(), "-n", "2", sys.executable, "-c", PROGRAM, "mpi", how],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=PATIENCE / 2,
        cwd=ELSEWHERE,
    )  # fmt: skip
    print(result.stdout)
    return result.stdout, result.returncode, time.monotonic() - start


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("how", "text"),
    [("exception", "ValueError: a fault of my own"), ("status", "SystemExit: 3"),
     *(pytest.param(*case, marks=pytest.mark.thorough) for case in [
         ("thread", "ValueError: a fault of my own"), ("interrupt", "KeyboardInterrupt"),
         ("text", "SystemExit: a fault of my own"), ("arguments", "SystemExit: 2")])],
)  # fmt: skip
def test_under_mpi(how, text):
    output, status, seconds = _mpi(how)
    assert f"heard: CommunicationError rank 1 gave up: {text}" in output
    printed = {"interrupt": "KeyboardInterrupt", "status": "", "text": "a fault\nof my own", "arguments": "usage: "}
    assert printed.get(how, "ValueError: a fault\nof my own") in output, "as ever"
    assert status != 0
    assert seconds < PATIENCE / 4


@pytest.mark.mpi
def test_under_mpi_whoever_is_in_no_collective_is_ended():
    output, status, seconds = _mpi("busy")
    assert "ValueError: a fault\nof my own" in output
    assert status != 0
    assert seconds < PATIENCE / 4


@pytest.mark.mpi
def test_under_mpi_the_launcher_ends_all_where_one_dies():
    output, status, seconds = _mpi("_exit")
    assert "heard" not in output
    assert status != 0
    assert seconds < PATIENCE / 4


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["SystemExit", "caught"])
def test_under_mpi_a_program_that_ends_well_ends_nobody(how):
    output, status, _ = _mpi(how)
    assert output.splitlines()[-1:] == ["a good end"]
    assert "ignored" not in output
    assert status == 0


@pytest.mark.torch
@pytest.mark.parametrize("how", ["exception", "thread", "status"])
def test_under_gloo(how, tmp_path):
    start = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "torch", how],
            env={**os.environ, "RANK": str(rank), "STORE": str(tmp_path / "store")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ELSEWHERE,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=PATIENCE / 2)[0] for process in processes]
    print(*outputs)
    text = "SystemExit: 3" if how == "status" else "ValueError: a fault of my own"
    assert f"rank 1 gave up: {text}" in outputs[0]
    assert how == "status" or "ValueError: a fault" in outputs[1]
    assert all(process.returncode != 0 for process in processes)
    assert time.monotonic() - start < PATIENCE / 2


def test_threads_that_nobody_wraps(monkeypatch):
    """initialize("threads") by hand: what leaves a thread is heard by the others."""
    printed = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: printed.append(arguments.exc_value))
    distributed.uncaught.listen.cache_clear()
    heard = {}

    def replica(rank):
        distributed.initialize("threads", rank=rank, world_size=2, timeout=PATIENCE)
        if rank == 1:
            raise ValueError("a fault\nof my own")
        try:
            membership.current().world.all_reduce(np.ones(3))
        except onnx_cbp.OnnxCbpError as error:
            heard[rank] = str(error)
        distributed.finalize()

    threads = [threading.Thread(target=replica, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE / 4)
    distributed.uncaught.listen.cache_clear()
    assert heard == {0: "rank 1 failed: ValueError: a fault of my own"}
    assert [str(error) for error in printed] == ["a fault\nof my own"], "and printed as ever"


@pytest.mark.parametrize("first", ["lifecycle", "native", "membership", "run", "threads", "uncaught"])
def test_modules_import_in_any_order(first):
    code = f"import onnx_cbp.distributed.{first}, onnx_cbp.custom_ops, onnx_cbp.distributed as d; d.initialize"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ELSEWHERE)


def test_no_module_of_replicas_imports_another_inside_a_function_to_break_a_circle():
    """Engines are imported when one is asked for; nothing else is."""
    folder = Path(distributed.__file__).parent
    inside = [
        (file.name, line.strip())
        for file in folder.glob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith("  ") and line.strip().startswith(("from onnx_cbp.distributed", "import onnx_cbp"))
    ]
    assert {name for name, _ in inside} <= {"lifecycle.py", "__init__.py"}
    engines = ("mpi", "torch", "threads")
    assert all(line.split()[1].endswith(engines) for name, line in inside if name == "lifecycle.py"), inside
