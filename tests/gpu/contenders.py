"""What is measured on a shape: our kernels, PyTorch's for the same work, a read and a copy of as many bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.cuda import Kernels

EPSILON = 1e-5
MOMENTUM = 0.9

Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """One of our kernels, how often it has to read or write an array like X, and PyTorch's calls for the same."""

    name: str
    reads: int
    writes: int
    ours: Call
    torch: Call | None
    relu: bool = False


class Shape:
    """Arrays of one shape [N, C, ...] and type on a device, and the work on them."""

    def __init__(self, kernels: Kernels, device: str, shape: tuple[int, ...], dtype: str) -> None:
        import torch

        self._torch, self._kernels, self._device = torch, kernels, device
        self._type = {"float32": 1, "float16": 10, "bfloat16": 16}[dtype]
        element = getattr(torch, dtype)
        generator = torch.Generator(device=device).manual_seed(0)

        def normal() -> Any:
            return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(element)

        channels = shape[1]
        self.x, self.dy = normal() * 2 + 3, normal()
        self.out = torch.empty_like(self.x)
        self.y = torch.relu(self.x)
        self.scale, self.bias, self.running_mean = (
            torch.randn(channels, generator=generator, device=device) for _ in range(3)
        )
        self.running_var = torch.rand(channels, generator=generator, device=device) + 0.5
        wide = self.x.float().transpose(0, 1).reshape(channels, -1)
        self.mean = wide.mean(1)
        self.var = wide.var(1, unbiased=False)
        del wide
        self.inv_std = torch.rsqrt(self.var + EPSILON)
        self.vectors = [torch.empty(channels, device=device) for _ in range(6)]
        self.sums = [torch.randn(channels, generator=generator, device=device) for _ in range(2)]
        self.count = torch.full((1,), self.x.numel() // channels, dtype=torch.int64, device=device)
        self._sizes = (shape[0], channels, self.x.numel() // (shape[0] * channels))
        size = kernels.workspace(*self._sizes)
        self._workspace = torch.empty(max(size, 1), dtype=torch.uint8, device=device)

    @property
    def bytes(self) -> int:
        """Of X."""
        return int(self.x.numel() * self.x.element_size())

    def read(self) -> Any:
        """A read of X: PyTorch's sum."""
        return self.x.sum()

    def copy(self) -> Any:
        """A copy of X: a read and a write."""
        return self.out.copy_(self.x)

    def _call(self, name: str, *arguments: Any) -> Call:
        """A call with the pointers and numbers that do not change made once."""
        torch, kernels = self._torch, self._kernels
        stream = torch.cuda.current_stream().cuda_stream if self._device == "cuda" else 0
        sizes = [ctypes.c_int64(size) for size in self._sizes]
        given = [
            ctypes.c_double(a)
            if isinstance(a, float)
            else ctypes.c_int(a)
            if isinstance(a, int)
            else ctypes.c_void_p(a.data_ptr())
            for a in arguments
        ]
        place = self._workspace.data_ptr()
        return lambda: kernels.call(name, stream, place, self._type, 1, *sizes, *given)

    def work(self) -> list[Work]:
        """All that is measured."""
        torch, v = self._torch, self.vectors
        count = self.count.to(torch.int32)

        def torch_train() -> Any:
            return torch.native_batch_norm(
                self.x, self.scale, self.bias, self.running_mean, self.running_var, True, 1 - MOMENTUM, EPSILON
            )

        def torch_grad(dy: Any) -> Any:
            return torch.ops.aten.native_batch_norm_backward(
                dy,
                self.x,
                self.scale,
                self.running_mean,
                self.running_var,
                self.mean,
                self.inv_std,
                True,
                EPSILON,
                [True, True, True],
            )

        update = (self.x, self.scale, self.bias, self.running_mean, self.running_var)
        found = (self.out, *v[:4])
        backward = (self.x, self.scale, self.mean, self.inv_std)
        return [
            Work(
                "channel_stats",
                1,
                0,
                self._call("onnx_cbp_channel_stats", self.x, v[0], v[1], self.count),
                lambda: torch.batch_norm_stats(self.x, EPSILON),
            ),
            Work(
                "channel_normalize",
                1,
                1,
                self._call(
                    "onnx_cbp_channel_normalize",
                    EPSILON,
                    *(self.x, self.scale, self.bias, self.mean, self.var, self.out),
                ),
                lambda: torch.batch_norm_elemt(self.x, self.scale, self.bias, self.mean, self.inv_std, EPSILON),
            ),
            Work(
                "channel_backprop_stats",
                2,
                0,
                self._call("onnx_cbp_channel_backprop_stats", *(self.x, self.mean, self.inv_std, self.dy, v[0], v[1])),
                lambda: torch.batch_norm_backward_reduce(
                    self.dy, self.x, self.mean, self.inv_std, self.scale, True, True, True
                ),
            ),
            Work(
                "channel_backprop",
                2,
                1,
                self._call("onnx_cbp_channel_backprop", self.dy, *backward, *self.sums, self.count, self.out),
                lambda: torch.batch_norm_backward_elemt(
                    self.dy, self.x, self.mean, self.inv_std, self.scale, self.sums[1], self.sums[0], count
                ),
            ),
            Work(
                "batch_norm_train_update",
                2,
                1,
                self._call("onnx_cbp_batch_norm_train_update", EPSILON, MOMENTUM, 1, 0, *update, *found),
                torch_train,
            ),
            Work(
                "batch_norm_train_update, ReLU",
                2,
                1,
                self._call("onnx_cbp_batch_norm_train_update", EPSILON, MOMENTUM, 1, 1, *update, *found),
                lambda: torch.relu_(torch_train()[0]),
                relu=True,
            ),
            Work(
                "batch_norm_relu_train_update",
                2,
                1,
                self._call("onnx_cbp_batch_norm_relu_train_update", EPSILON, MOMENTUM, 1, *update, *found, *v[4:]),
                lambda: torch.relu_(torch_train()[0]),
                relu=True,
            ),
            Work(
                "batch_norm_grad",
                4,
                1,
                self._call("onnx_cbp_batch_norm_grad", self.dy, *backward, self.out, v[0], v[1]),
                lambda: torch_grad(self.dy),
            ),
            Work(
                "batch_norm_relu_grad",
                6,
                1,
                self._call("onnx_cbp_batch_norm_relu_grad", self.dy, self.y, *backward, self.out, v[0], v[1]),
                lambda: torch_grad(torch.ops.aten.threshold_backward(self.dy, self.y, 0)),
                relu=True,
            ),
            Work(
                "batch_norm_recompute_relu_grad",
                4,
                1,
                self._call(
                    "onnx_cbp_batch_norm_recompute_relu_grad",
                    *(self.dy, *backward, self.scale, self.bias, self.out, v[0], v[1]),
                ),
                lambda: torch_grad(torch.ops.aten.threshold_backward(self.dy, self.y, 0)),
                relu=True,
            ),
        ]
