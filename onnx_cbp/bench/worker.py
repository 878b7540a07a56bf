"""A process that runs one library's kernels for the benchmark; each line on stdin is a command in JSON.

It is run by path, with any interpreter that has numpy and the library, so it imports nothing of this package.

    python worker.py onnxruntime | torch | read | probe

It answers with one JSON document per line, on its original stdout. Commands:

    {"do": "prepare", "id": str, "threads": int, "task": {...}}   loads the inputs and preallocates
    {"do": "outputs", "id": str, "folder": str}                   runs once; saves the outputs as .npy files
    {"do": "time", "id": str, "runs": int}                        runs this often; answers seconds per run
    {"do": "release", "inputs": bool}                             forgets what is prepared, and the inputs too

After "time" it answers only when its threads have gone to sleep: thread pools spin for a while, and would take cores
from the next process.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# It is run by path, so the folder of this file must not be searched for imports.
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

import numpy as np

#: The commands of a worker: their names, and the functions that answer them.
Commands = dict[str, Callable[[dict[str, Any]], dict[str, Any]]]

_LARGE = 1 << 20
#: The type that is passed as float32.
_NOT_OF_NUMPY = "bfloat16"
_inputs: dict[str, np.ndarray] = {}


def _load(path: str) -> np.ndarray:
    """An input. Large ones are shared by all prepared tasks; small ones are not, since a kernel may overwrite them."""
    if path not in _inputs:
        array = np.load(path)
        if array.nbytes < _LARGE:
            return array
        _inputs[path] = array
    return _inputs[path]


class Prepared:
    """A kernel with its inputs and outputs: `run` runs it, and `outputs` are the arrays that it writes."""

    def __init__(self, run: Callable[[int], None], outputs: Callable[[], dict[str, np.ndarray]]) -> None:
        self.run = run
        self.outputs = outputs


def _onnxruntime(task: dict[str, Any], threads: int) -> Prepared:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised too
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if task["library"]:
        options.register_custom_ops_library(task["library"])
    session = ort.InferenceSession(base64.b64decode(task["model"]), options, providers=["CPUExecutionProvider"])
    casts = task["casts"] and {way: _cast(base64.b64decode(model)) for way, model in task["casts"].items()}
    binding = session.io_binding()
    keep = []
    for name, path in task["inputs"].items():
        value = ort.OrtValue.ortvalue_from_numpy(_load(path))
        keep.append(casts["in"](value) if task["types"][name] == _NOT_OF_NUMPY else value)
        binding.bind_ortvalue_input(name, keep[-1])
    arrays, values = {}, {}
    for name, (shape, dtype) in task["outputs"].items():
        arrays[name] = np.zeros(shape, "float32" if dtype == _NOT_OF_NUMPY else dtype)
        value = ort.OrtValue.ortvalue_from_numpy(arrays[name])
        values[name] = casts["in"](value) if dtype == _NOT_OF_NUMPY else value
        binding.bind_ortvalue_output(name, values[name])

    def run(runs: int) -> None:
        for _ in range(runs):
            session.run_with_iobinding(binding)

    def outputs() -> dict[str, np.ndarray]:
        of_numpy = {
            name: casts["out"](value) if task["outputs"][name][1] == _NOT_OF_NUMPY else value
            for name, value in values.items()
        }
        return {name: value.numpy() for name, value in of_numpy.items() if keep}

    return Prepared(run, outputs)


def _cast(model: bytes) -> Callable[[Any], Any]:
    """A function that casts an OrtValue to another type."""
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])

    def cast(value: Any) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", value)
        binding.bind_output("y", "cpu")
        session.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    return cast


def _torch(task: dict[str, Any], threads: int) -> Prepared:
    import torch

    torch.set_num_threads(threads)
    rank, axis = task["rank"], task["axis"] % task["rank"]
    channels_second = [0, axis, *(i for i in range(1, rank) if i != axis)] if axis else list(range(rank))
    back = np.argsort(channels_second).tolist()
    tensors = {}
    for name, path in task["inputs"].items():
        tensor = torch.from_numpy(_load(path))
        if task["types"][name] == _NOT_OF_NUMPY:
            tensor = tensor.to(torch.bfloat16)
        tensors[name] = tensor.permute(channels_second) if tensor.dim() == rank and rank > 1 else tensor
    call = _TORCH[task["kernel"]](torch, tensors, task["attributes"])
    last: list[tuple[Any, ...]] = [()]

    def run(runs: int) -> None:
        with torch.inference_mode(), torch.no_grad():
            for _ in range(runs):
                last[0] = call()

    def outputs() -> dict[str, np.ndarray]:
        named = zip(task["results"], last[0], strict=True)
        results = {name: value for name, value in named if name}
        results.update({new: tensors[old] for new, old in task["updated"].items()})
        of_numpy = {n: v.float() if v.dtype == torch.bfloat16 else v for n, v in results.items()}
        return {
            name: (value.permute(back) if value.dim() == rank and rank > 1 else value).contiguous().numpy()
            for name, value in of_numpy.items()
        }

    return Prepared(run, outputs)


def _torch_forward(torch: Any, t: dict[str, Any], a: dict[str, float]) -> Callable[[], tuple[Any, ...]]:
    arguments = (t["X"], t["scale"], t["B"], t["running_mean"], t["running_var"], True, a["momentum"], a["epsilon"])
    return lambda: torch.native_batch_norm(*arguments)


def _torch_normalize(torch: Any, t: dict[str, Any], a: dict[str, float]) -> Callable[[], tuple[Any, ...]]:
    arguments = (t["X"], t["scale"], t["B"], t["mean"], t["var"], False, 0.0, a["epsilon"])
    return lambda: torch.native_batch_norm(*arguments)[:1]


def _torch_backward(torch: Any, t: dict[str, Any], a: dict[str, float]) -> Callable[[], tuple[Any, ...]]:
    saved = (t["X"], t["scale"], None, None, t["mean"], t["inv_std"], True, a["epsilon"])
    backward = torch.ops.aten.native_batch_norm_backward
    return lambda: backward(t["dY"], *saved, [True, True, True])


def _torch_relu_backward(torch: Any, t: dict[str, Any], a: dict[str, float]) -> Callable[[], tuple[Any, ...]]:
    saved = (t["X"], t["scale"], None, None, t["mean"], t["inv_std"], True, a["epsilon"])
    backward, relu = torch.ops.aten.native_batch_norm_backward, torch.ops.aten.threshold_backward
    return lambda: backward(relu(t["dY"], t["Y"], 0), *saved, [True, True, True])


def _torch_backward_stats(torch: Any, t: dict[str, Any], a: dict[str, float]) -> Callable[[], tuple[Any, ...]]:
    saved = (t["X"], t["scale"], None, None, t["mean"], t["inv_std"], True, a["epsilon"])
    backward = torch.ops.aten.native_batch_norm_backward
    return lambda: backward(t["dY"], *saved, [False, True, True])[1:]


def _torch_stats(torch: Any, t: dict[str, Any], a: dict[str, float]) -> Callable[[], tuple[Any, ...]]:
    return lambda: torch.batch_norm_update_stats(t["X"], None, None, a["momentum"])


_TORCH = {
    "forward": _torch_forward,
    "normalize": _torch_normalize,
    "backward": _torch_backward,
    "relu_backward": _torch_relu_backward,
    "backward_stats": _torch_backward_stats,
    "stats": _torch_stats,
}


def _read(task: dict[str, Any], threads: int) -> Prepared:
    """Only reads this many bytes: by the C library's memcmp over two equal halves, a part for each thread."""
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    half = max(task["bytes"] // 2, 1)
    # Written, not only allocated: untouched pages would all be the same page of zeros, which stays in the cache.
    left, right = np.full(half, 1, np.uint8), np.full(half, 1, np.uint8)
    edges = [half * i // threads for i in range(threads + 1)]
    pool = ThreadPoolExecutor(threads)

    def part(start: int, end: int, runs: int) -> None:
        a, b = left.ctypes.data + start, right.ctypes.data + start
        for _ in range(runs):
            compare(a, b, end - start)

    def run(runs: int) -> None:
        if threads == 1:
            part(0, half, runs)
            return
        for done in [pool.submit(part, s, e, runs) for s, e in itertools.pairwise(edges)]:
            done.result()

    return Prepared(run, dict)


def _probe() -> dict[str, Any]:
    return {name: importlib.util.find_spec(name) is not None for name in ("onnxruntime", "torch")}


def versions(library: str) -> dict[str, Any]:
    """The versions of Python, numpy and the library."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "numpy": np.__version__}
    if library in ("onnxruntime", "torch"):
        module = importlib.import_module(library)
        found[library] = module.__version__
        if library == "onnxruntime":
            found["build"] = module.get_build_info()
    return found


def sleep_until_idle() -> None:
    """Wait until no thread of this process computes any more, at most a second."""
    step = 0.004
    for _ in range(250):
        before = time.process_time()
        time.sleep(step)
        if time.process_time() - before < step / 8:
            return


_PREPARE = {"onnxruntime": _onnxruntime, "torch": _torch, "read": _read}


def commands(prepare: Callable[[dict[str, Any], int], Prepared], prepared: dict[str, Prepared]) -> Commands:
    """The commands that every worker has; what is prepared is kept in `prepared`, by id."""

    def do_prepare(command: dict[str, Any]) -> dict[str, Any]:
        prepared[command["id"]] = prepare(command["task"], command["threads"])
        return {}

    def do_outputs(command: dict[str, Any]) -> dict[str, Any]:
        one = prepared[command["id"]]
        one.run(1)
        paths = {}
        for name, array in one.outputs().items():
            paths[name] = str(Path(command["folder"]) / f"{name}.npy")
            np.save(paths[name], array)
        return {"paths": paths}

    def do_time(command: dict[str, Any]) -> dict[str, Any]:
        run = prepared[command["id"]].run
        start = time.perf_counter()
        run(command["runs"])
        seconds = (time.perf_counter() - start) / command["runs"]
        sleep_until_idle()
        return {"seconds": seconds}

    def do_release(command: dict[str, Any]) -> dict[str, Any]:
        prepared.clear()
        if command["inputs"]:
            _inputs.clear()
        return {}

    return {"prepare": do_prepare, "outputs": do_outputs, "time": do_time, "release": do_release}


def serve(greet: Callable[[], dict[str, Any]], known: Commands) -> None:
    """Greet, then answer commands until stdin ends."""
    # Libraries may print to stdout, so answers get their own file.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        say(greet())
    except Exception as error:  # a broken installation can raise anything
        say({"error": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        try:
            command = json.loads(line)
            say(known[command["do"]](command))
        except Exception as error:  # the errors of the libraries have no common base
            say({"error": f"{type(error).__name__}: {error}"})


def main(library: str) -> None:
    """Answer for one library."""
    if library == "probe":
        serve(_probe, {})
    else:
        serve(lambda: versions(library), commands(_PREPARE[library], {}))


if __name__ == "__main__":
    main(sys.argv[1])
