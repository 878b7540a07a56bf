"""What is measured on a shape: our kernels, PyTorch's for the same work, a read and a copy of as many bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from support.gpu.cuda import Kernels

EPSILON = 1e-5
MOMENTUM = 0.9
#: Largest difference to PyTorch's results, relative to the largest value: PyTorch sums in float.
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}
#: Share of the elements that may differ by more: where a ReLU's input is within rounding of zero, it may pass in one
#: and not in the other.
FEW = 1e-5

Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """One of our kernels, how often it has to read or write an array like X, and PyTorch's calls for the same.

    Attributes:
        ours: makes our call.
        outputs: what our call writes and `torch` answers, in its order.
        torch: PyTorch's call; answers a sequence of tensors.
    """

    name: str
    reads: int
    writes: int
    ours: Call
    outputs: Sequence[Any]
    torch: Callable[[], Sequence[Any]]
    relu: bool = False
    #: cuDNN's call for the same, which PyTorch has for GPUs alone.
    cudnn: Callable[[], Sequence[Any]] | None = None


class Shape:
    """Arrays of one shape [N, C, H, W] and type on a device, in memory as that or channels last, and work on them."""

    def __init__(
        self, kernels: Kernels, device: str, shape: tuple[int, ...], dtype: str, *, channels_last: bool = False
    ) -> None:
        import torch

        self._torch, self._kernels, self._device = torch, kernels, device
        self._type = {"float32": 1, "float16": 10, "bfloat16": 16}[dtype]
        self._tolerance = TOLERANCE[dtype]
        generator = torch.Generator(device=device).manual_seed(0)

        def normal(*size: int) -> Any:
            return torch.randn(*size, generator=generator, device=device)

        channels = shape[1]
        element = getattr(torch, dtype)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        made = normal(*shape) * 2 + 0.5, normal(*shape)
        self.x, self.dy = (values.to(element).contiguous(memory_format=layout) for values in made)
        del made
        self.out, self.y = torch.empty_like(self.x), torch.relu(self.x)
        self.scale, self.bias, self.running_mean = (normal(channels) for _ in range(3))
        self.running_var = normal(channels).abs() + 0.5
        wide = self.x.float().transpose(0, 1).reshape(channels, -1)
        self.mean, self.var = wide.mean(1), wide.var(1, unbiased=False)
        del wide
        self.inv_std = torch.rsqrt(self.var + EPSILON)
        self.vectors = [torch.empty(channels, device=device) for _ in range(6)]
        self.scale_grad, self.bias_grad = normal(channels), normal(channels)
        self.count = torch.full((1,), self.x.numel() // channels, dtype=torch.int64, device=device)
        # With these, what is normalized is X itself, whose ReLU is Y.
        self.slope, self.offset = torch.ones(channels, device=device), self.mean
        pixels = self.x.numel() // (shape[0] * channels)
        self._sizes = (shape[0] * pixels, channels, 1) if channels_last else (shape[0], channels, pixels)
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

    def is_right(self, work: Work) -> bool:
        """Whether our results are PyTorch's, to rounding."""
        for output in work.outputs:
            output.fill_(float("nan"))
        work.ours()
        for ours, theirs in zip(work.outputs, work.torch(), strict=False):
            bound = self._tolerance * float(theirs.float().abs().max())
            far = ~((ours.float() - theirs.float()).abs() <= bound)
            if float(far.float().mean()) > FEW:
                return False
        return True

    def _call(self, name: str, *arguments: Any) -> Call:
        """A call with the pointers and numbers that do not change made once."""
        kernels, stream = self._kernels, 0
        if self._device == "cuda":
            stream = self._torch.cuda.current_stream().cuda_stream
        sizes = [ctypes.c_int64(size) for size in self._sizes]
        given = [_argument(value) for value in arguments]
        place = self._workspace.data_ptr()
        return lambda: kernels.call(f"onnx_cbp_{name}", stream, place, self._type, 1, *sizes, *given)

    def work(self) -> list[Work]:
        """All that is measured."""
        return [*self._parts(), *self._forward(), *self._backward()]

    def _parts(self) -> list[Work]:
        """The ops of a batch norm that other replicas take part in."""
        torch, v, x, dy = self._torch, self.vectors, self.x, self.dy
        mean, var, inv_std, scale, bias = self.mean, self.var, self.inv_std, self.scale, self.bias
        sums = self.scale_grad, self.bias_grad
        dy_xmu, count = self.scale_grad / inv_std, self.count.to(torch.int32)
        return [
            Work(
                *("channel_stats", 1, 0),
                self._call("channel_stats", x, v[0], v[1], self.count),
                [v[0]],
                lambda: torch.batch_norm_stats(x, EPSILON),
            ),
            Work(
                *("channel_normalize", 1, 1),
                self._call("channel_normalize", EPSILON, x, scale, bias, mean, var, self.out),
                [self.out],
                lambda: [torch.batch_norm_elemt(x, scale, bias, mean, inv_std, EPSILON)],
            ),
            Work(
                *("channel_backprop_stats", 2, 0),
                self._call("channel_backprop_stats", x, mean, inv_std, dy, v[0], v[1]),
                [v[0], v[1]],
                lambda: torch.batch_norm_backward_reduce(dy, x, mean, inv_std, scale, True, True, True)[2:],
            ),
            Work(
                *("channel_backprop", 2, 1),
                self._call("channel_backprop", dy, x, scale, mean, inv_std, *sums, self.count, self.out),
                [self.out],
                lambda: [torch.batch_norm_backward_elemt(dy, x, mean, inv_std, scale, self.bias_grad, dy_xmu, count)],
            ),
        ]

    def _forward(self) -> list[Work]:
        torch, v = self._torch, self.vectors
        inputs = (self.x, self.scale, self.bias, self.running_mean, self.running_var)
        outputs = (self.out, *v[:4])
        numbers = (EPSILON, MOMENTUM, 1)

        # PyTorch's own, which it updates in place; no result that is compared depends on them.
        running = self.running_mean.clone(), self.running_var.clone()

        def train() -> Sequence[Any]:
            return torch.native_batch_norm(*inputs[:3], *running, True, 1 - MOMENTUM, EPSILON)

        def cudnn() -> Sequence[Any]:
            return torch.cudnn_batch_norm(*inputs[:3], *running, True, 1 - MOMENTUM, EPSILON)

        def train_relu() -> Sequence[Any]:
            y, *rest = train()
            return [torch.relu_(y), *rest]

        update = "batch_norm_train_update"
        relu_update = "batch_norm_relu_train_update"
        return [
            Work(update, 2, 1, self._call(update, *numbers, 0, *inputs, *outputs), outputs[:3], train, cudnn=cudnn),
            Work(
                *(f"{update}, relu", 2, 1),
                self._call(update, *numbers, 1, *inputs, *outputs),
                outputs[:3],
                train_relu,
                relu=True,
            ),
            Work(
                *(relu_update, 2, 1),
                self._call(relu_update, *numbers, *inputs, *outputs, *v[4:]),
                outputs[:3],
                train_relu,
                relu=True,
            ),
        ]

    def _backward(self) -> list[Work]:
        aten, v, dy = self._torch.ops.aten, self.vectors, self.dy
        inputs = (self.x, self.scale, self.mean, self.inv_std)
        outputs = (self.out, v[0], v[1])
        running = (self.running_mean, self.running_var)

        def gradient(of: Any) -> Sequence[Any]:
            statistics = (*running, self.mean, self.inv_std)
            return aten.native_batch_norm_backward(
                of, self.x, self.scale, *statistics, True, EPSILON, [True, True, True]
            )

        reserved: list[Any] = []

        def cudnn() -> Sequence[Any]:
            if not reserved:  # what its forward pass keeps for the gradient
                made = self._torch.cudnn_batch_norm(
                    self.x, self.scale, self.bias, *(value.clone() for value in running), True, 1 - MOMENTUM, EPSILON
                )
                reserved.append(made[3])
            return self._torch.ops.aten.cudnn_batch_norm_backward(
                self.x, dy, self.scale, *running, self.mean, self.inv_std, EPSILON, reserved[0]
            )

        def relu_gradient() -> Sequence[Any]:
            return gradient(aten.threshold_backward(dy, self.y, 0))

        plain, relu, recompute = "batch_norm_grad", "batch_norm_relu_grad", "batch_norm_recompute_relu_grad"
        mask = (self.slope, self.offset)
        return [
            Work(
                *(plain, 4, 1),
                self._call(plain, dy, *inputs, *outputs),
                outputs,
                lambda: gradient(dy),
                cudnn=cudnn,
            ),
            Work(relu, 6, 1, self._call(relu, dy, self.y, *inputs, *outputs), outputs, relu_gradient, relu=True),
            Work(
                *(recompute, 4, 1),
                self._call(recompute, dy, *inputs, *mask, *outputs),
                outputs,
                relu_gradient,
                relu=True,
            ),
        ]


def _argument(value: Any) -> Any:
    if isinstance(value, float):
        return ctypes.c_double(value)
    if isinstance(value, int):
        return ctypes.c_int(value)
    return ctypes.c_void_p(value.data_ptr())
