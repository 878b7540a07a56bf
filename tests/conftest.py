"""What this installation can run; a test that cannot run says why."""

from __future__ import annotations

import gc
import os
from importlib.util import find_spec

import pytest

from onnx_cbp.custom_ops.library import find_library, native_target
from support.gpu import cuda_adapter
from support.replicas import mpiexec
from support.sampling import one_in


def pytest_report_header() -> str:
    import onnx
    import onnxruntime

    target = native_target()
    library = f"native library with {target}" if target else "no native library"
    if cuda_adapter.folder() is not None:
        library = f"CUDA adapter on the CPU, {cuda_adapter.folder()}"
    return f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, {library}"


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "of a test's cases one in N, and every value that several of them share"
    parser.addoption("--one-in", type=int, default=1, metavar="N", help=about)
    parser.addoption("--thorough", action="store_true", help="all cases, and the tests that are marked as thorough")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--thorough"):  # no test cuts the power, and each of ten thousand files waits for the disk
        os.fsync = lambda descriptor: None
    cuda_adapter.take_the_place_of_the_library()
    config.addinivalue_line("markers", "native: needs the native library")
    config.addinivalue_line("markers", "training: needs ONNX Runtime's training build")
    config.addinivalue_line("markers", "mpi: needs mpi4py and an MPI launcher")
    config.addinivalue_line("markers", "torch: needs PyTorch")
    config.addinivalue_line("markers", "whole: each case shows what no other does, so --one-in leaves none out")
    config.addinivalue_line("markers", "product: cases of all values with all others, of which one in 3 shows as much")
    config.addinivalue_line("markers", "thorough: slow and rarely broken, for --thorough alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import onnxruntime

    if not config.getoption("--thorough"):
        items[:], others = one_in(config.getoption("--one-in"), items)
        config.hook.pytest_deselected(items=others)
    for item in items:
        if item.get_closest_marker("native") and find_library() is None:
            item.add_marker(pytest.mark.skip(reason="a pure-Python installation has no native library"))
        if item.get_closest_marker("training") and not _has_training():
            reason = f"needs onnxruntime-training-cpu; onnxruntime {onnxruntime.__version__} is installed"
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("mpi") and not (find_spec("mpi4py") and mpiexec()):
            item.add_marker(pytest.mark.skip(reason="mpi4py and mpiexec are not installed here"))
        if item.get_closest_marker("torch") and not find_spec("torch"):
            item.add_marker(pytest.mark.skip(reason="PyTorch is not installed here"))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()  # thousands of cases, which no collection need look through


def _has_training() -> bool:
    from onnxruntime.capi import _pybind_state

    return hasattr(_pybind_state, "Module")
