"""Where the tests of this folder run: on a GPU, and on the processor with the kernels that were built for it."""

from __future__ import annotations

from importlib.util import find_spec

import onnxruntime as ort
import pytest

from support.gpu import cuda_adapter
from support.gpu.cuda import TorchDevice, open_device, why_no_gpu


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of the kernels runs on every device that is here, or is skipped once with the reason."""
    if "opened" not in metafunc.fixturenames:
        return
    here = [] if why_no_gpu() else ["cuda"]
    if cuda_adapter.folder() is not None:
        here += ["host", "host-torch"] if find_spec("torch") else ["host"]
    metafunc.parametrize("opened", here or ["cuda"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def opened(request):
    """The kernels, and the memory that they run on."""
    return open_device(request.param)


@pytest.fixture
def kernels(opened):
    return opened[0]


@pytest.fixture
def device(opened):
    return opened[1]


@pytest.fixture
def provider(device):
    """The execution provider of ONNX Runtime's on the device's memory."""
    if isinstance(device, TorchDevice) and device.name == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            pytest.skip(f"onnxruntime {ort.__version__} has no CUDA provider: install onnxruntime-gpu")
        return "CUDAExecutionProvider"
    return "CPUExecutionProvider"
