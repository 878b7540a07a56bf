"""What is measured: each of our kernels, and its peers, which compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_cbp.custom_ops import DOMAIN

EPSILON = 1e-5
MOMENTUM = 0.9
_MICROSOFT = "com.microsoft"

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Node:
    """A node of a peer's model or of ours."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxPeer:
    """ONNX Runtime's own kernels for the same computation. Outputs named like a result are compared with ours."""

    family: str
    nodes: tuple[Node, ...]
    library: str = "onnxruntime"

    @property
    def name(self) -> str:
        """The ops that run."""
        return " + ".join(n.op_type for n in self.nodes)


@dataclass(frozen=True)
class TorchPeer:
    """PyTorch's kernels for the same computation.

    Attributes:
        kernel: its name in the worker.
        name: the functions that run.
        inputs: their inputs.
        results: our names for their results; "" for results that we do not have.
        updated: our names for what they overwrite, and their names of those inputs.
    """

    kernel: str
    name: str
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    updated: Mapping[str, str] = field(default_factory=dict)
    family: str = "PyTorch"
    library: str = "torch"


Peer = OnnxPeer | TorchPeer


@dataclass(frozen=True)
class Kernel:
    """One of our ops.

    Attributes:
        op: its type; inputs and outputs are those of its description.
        attributes: in addition to axis, and stash_type if it has one.
        tensors: how many tensors of X's shape it must move, each of them once.
        peers: what computes the same.
    """

    op: str
    tensors: int
    attributes: Attributes = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()


_SAVED = ("X", "scale", "mean", "inv_std")
_RUNNING = ("running_mean", "running_var")
_GRADIENTS = ("dX", "scale_grad", "bias_grad")
_NAMES = {"microsoft": "training ops", "onnx": "ONNX op"}


def _grad(dY: str) -> Node:
    inputs = (dY, "X", "scale", "mean", "inv_std")
    return Node("BatchNormalizationGrad", inputs, _GRADIENTS, _MICROSOFT, {"epsilon": EPSILON})


_RELU_GRADIENTS = (
    OnnxPeer(_NAMES["microsoft"], (Node("ReluGrad", ("dY", "Y"), ("masked",), _MICROSOFT), _grad("masked"))),
    TorchPeer(
        "relu_backward",
        "threshold_backward + native_batch_norm_backward",
        ("dY", "Y", *_SAVED),
        _GRADIENTS,
    ),
)

_KERNELS = (
    Kernel(
        "BatchNormTrainUpdate",
        tensors=2,
        attributes={"epsilon": EPSILON, "momentum": MOMENTUM, "unbiased": 0, "relu": 0},
        peers=(
            OnnxPeer(
                _NAMES["microsoft"],
                (
                    Node(
                        "BatchNormInternal",
                        ("X", "scale", "B", *_RUNNING),
                        ("Y", "updated_mean", "updated_var", "mean", "inv_std"),
                        _MICROSOFT,
                        {"epsilon": EPSILON, "momentum": MOMENTUM, "training_mode": 1},
                    ),
                ),
            ),
            OnnxPeer(
                _NAMES["onnx"],
                (
                    Node(
                        "BatchNormalization",
                        ("X", "scale", "B", *_RUNNING),
                        ("Y", "updated_mean", "updated_var"),
                        attributes={"epsilon": EPSILON, "momentum": MOMENTUM, "training_mode": 1},
                    ),
                ),
            ),
            # Its running variance is the unbiased one, which must not be compared.
            TorchPeer(
                "forward",
                "native_batch_norm",
                ("X", "scale", "B", *_RUNNING),
                ("Y", "mean", "inv_std"),
                {"updated_mean": "running_mean"},
            ),
        ),
    ),
    Kernel(
        "BatchNormGrad",
        tensors=3,
        peers=(
            OnnxPeer(_NAMES["microsoft"], (_grad("dY"),)),
            TorchPeer("backward", "native_batch_norm_backward", ("dY", *_SAVED), _GRADIENTS),
        ),
    ),
    Kernel("BatchNormReluGrad", tensors=4, peers=_RELU_GRADIENTS),
    Kernel("BatchNormRecomputeReluGrad", tensors=3, peers=_RELU_GRADIENTS),
    Kernel(
        "ChannelStats",
        tensors=1,
        peers=(TorchPeer("stats", "batch_norm_update_stats", ("X",), ("mean", "var")),),
    ),
    Kernel(
        "ChannelBackpropStats",
        tensors=2,
        peers=(
            TorchPeer(
                "backward_stats",
                "native_batch_norm_backward without dX",
                ("dY", *_SAVED),
                ("scale_grad", "bias_grad"),
            ),
        ),
    ),
    Kernel(
        "ChannelNormalize",
        tensors=2,
        attributes={"epsilon": EPSILON},
        peers=(
            OnnxPeer(
                _NAMES["onnx"],
                (
                    Node(
                        "BatchNormalization",
                        ("X", "scale", "B", "mean", "var"),
                        ("Y",),
                        attributes={"epsilon": EPSILON},
                    ),
                ),
            ),
            TorchPeer("normalize", "native_batch_norm of inference", ("X", "scale", "B", "mean", "var"), ("Y",)),
        ),
    ),
    Kernel("ChannelBackprop", tensors=3),
)

#: By op type, in the order in which they are shown.
KERNELS = {kernel.op: kernel for kernel in _KERNELS}


def own_node(kernel: Kernel, inputs: tuple[str, ...], outputs: tuple[str, ...], attributes: Mapping[str, Any]) -> Node:
    """The node of our op."""
    return Node(kernel.op, inputs, outputs, DOMAIN, attributes)
