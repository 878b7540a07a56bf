"""Arrays of more than 2^31 elements, where an index that has 32 bits goes wrong.

Such an array is a smaller one again and again, so that what is expected of it follows from the smaller one.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec

import numpy as np
import pytest

from support.gpu.cuda import TorchDevice, why_no_gpu
from support.ops import exact, make_case

#: How often the array of 8 x 64 x 2048 elements is repeated: once for all machines, and past 2^31 elements.
FEW, MANY = 3, 2049
BASE = (8, 64, 2048)
FLOAT, BFLOAT16 = 1, 16


@pytest.mark.parametrize("repeats", [FEW, MANY])
def test_statistics_normalization_and_gradients(kernels, device, repeats):
    if not find_spec("torch") or not isinstance(device, TorchDevice):
        pytest.skip("the arrays are made and compared by PyTorch")
    import torch

    if repeats == MANY:
        if device.name != "cuda":
            pytest.skip(why_no_gpu() or "this is a GPU's to do")
        needed = repeats * int(np.prod(BASE)) * 2 * 3 * 1.1
        free, _ = torch.cuda.mem_get_info()
        if free < needed:
            pytest.skip(f"the arrays take {needed / 2**30:.0f} GiB, and the GPU has {free / 2**30:.0f} GiB free")
    case = make_case("BatchNormGrad", BASE, data="bfloat16")
    dY, X, *vectors = case.inputs
    want_dX, want_scale_grad, want_bias_grad = exact(case)
    _, want_mean, want_var, _ = exact(make_case("BatchNormTrain", BASE, X=X.astype(np.float64), data="bfloat16"))

    def on_device(array):
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return torch.from_numpy(flat.copy()).to(device.name)

    x, dy = (on_device(v).view(torch.bfloat16).reshape(BASE).repeat(repeats, 1, 1) for v in (X, dY))
    scale, mean, inv_std = map(on_device, vectors)
    out = torch.zeros_like(x)
    statistics = torch.zeros((2, BASE[1]), dtype=torch.float32, device=device.name)
    count = torch.zeros(1, dtype=torch.int64, device=device.name)
    sizes = [ctypes.c_int64(size) for size in x.shape]
    workspace = torch.zeros(kernels.workspace(*x.shape), dtype=torch.uint8, device=device.name)

    def call(name, *tensors):
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        kernels.call(name, device.stream, workspace.data_ptr(), BFLOAT16, FLOAT, *sizes, *pointers)

    call("onnx_cbp_channel_stats", x, statistics[0], statistics[1], count)
    assert count.item() == x.numel() // BASE[1]
    np.testing.assert_allclose(statistics[0].cpu().numpy(), want_mean, rtol=1e-6)
    np.testing.assert_allclose(statistics[1].cpu().numpy(), want_var, rtol=1e-6)

    call("onnx_cbp_batch_norm_grad", dy, x, scale, mean, inv_std, out, statistics[0], statistics[1])
    np.testing.assert_allclose(statistics[0].cpu().numpy() / repeats, want_scale_grad, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(statistics[1].cpu().numpy() / repeats, want_bias_grad, rtol=1e-5, atol=1e-2)
    parts = out.reshape(repeats, *BASE)
    first = parts[0].float().cpu().numpy()
    np.testing.assert_allclose(first, want_dX, rtol=0, atol=8e-3 * np.abs(want_dX).max())
    for part in parts[1:]:
        assert torch.equal(part, parts[0])
