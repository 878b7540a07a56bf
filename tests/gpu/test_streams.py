"""Calls are queued on the stream that they are given, behind what is there, and wait for nothing."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from support.gpu.cuda import OPS, Prepared, TorchDevice, why_no_gpu
from support.ops import exact, make_case

#: Clock ticks of a GPU: some milliseconds.
A_WHILE = 20_000_000


@pytest.fixture
def torch():
    reason = why_no_gpu()
    if reason is not None:
        pytest.skip(reason)
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", OPS)
def test_a_stream_of_its_own(torch, kernels, name):
    """Inputs that are copied late on the same stream are what the kernel reads, and it is not waited for."""
    case = make_case(name, (6, 5, 17, 19))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        device = TorchDevice("cuda")
        assert device.stream == stream.cuda_stream
        call = Prepared(kernels, case, device)
        stream.synchronize()
        want = [value.copy() for value in call.run()]
        pieces = [buffer.get("an input") for buffer in call.inputs]
        for buffer in call.inputs:
            buffer.put(np.full(buffer.size, 0xFF, np.uint8))
        late = [torch.from_numpy(piece.copy()).pin_memory() for piece in pieces]
        stream.synchronize()
        torch.cuda._sleep(A_WHILE)
        for buffer, piece in zip(call.inputs, late, strict=True):
            buffer.put_later(piece)
        call.enqueue()
        waited = stream.query()
        for got, expected in zip(call.run(), want, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert not waited, "the call came back after its work had ended"


@pytest.mark.parametrize("name", ["ChannelStats", "BatchNormGrad"])
def test_another_gpu(torch, kernels, name):
    """PyTorch chooses it through a CUDA runtime of its own; the kernels' is another, which has to follow."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU here")
    case = make_case(name, (6, 5, 17, 19))
    with torch.cuda.device(1):
        for got, want in zip(kernels.run(case, TorchDevice("cuda")), exact(case), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_copies_to_and_from_the_device(kernels, device):
    values = np.arange(1000, dtype=np.float32)
    call = Prepared(kernels, make_case("ChannelStats", (10, 100)), device)
    buffer = call.inputs[0]
    kernels.to_device(device.stream, buffer.pointer, values.tobytes())
    back = np.zeros_like(values)
    half = back.nbytes // 2
    copies = [(back.ctypes.data + at, buffer.pointer + at, half) for at in (0, half)]
    kernels.to_host(device.stream, *copies)
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("name", ["BatchNormTrain", "BatchNormGrad"])
def test_two_threads_that_need_shared_memory_of_different_sizes(kernels, device, name):
    """Both ask for more than the 48 KB that a kernel has without asking, again and again."""
    if not isinstance(device, TorchDevice) or device.name != "cuda":
        pytest.skip("the limit is a GPU's")
    from concurrent.futures import ThreadPoolExecutor

    cases = [make_case(name, (images, 160, 14, 14)) for images in (64, 66, 96)]
    want = [kernels.run(case, device) for case in cases]

    def work(which):
        return [kernels.run(cases[which], device) for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        for which, results in enumerate(pool.map(work, range(3))):
            for got in results:
                for a, b in zip(got, want[which], strict=True):
                    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["ChannelStats", "BatchNormGrad"])
def test_calls_of_two_threads(kernels, device, name):
    """Each thread has its own arrays and workspace; errors of one are not the other's."""
    from concurrent.futures import ThreadPoolExecutor

    case = make_case(name, (5, 6, 7, 9))

    def work(_):
        pointers = [ctypes.c_void_p(0)] * 4
        sizes = [ctypes.c_int64(size) for size in (2, 3, 4)]
        with pytest.raises(RuntimeError, match="type"):
            kernels.call("onnx_cbp_channel_stats", device.stream, 0, 7, 1, *sizes, *pointers)
        return kernels.run(case, device)

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(work, range(8)):
            for got, want in zip(results, exact(case), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
