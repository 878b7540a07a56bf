"""What a training step of ResNet-50 sends, from its architecture: channels of the batch norms, and parameters.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, table 1; 224x224 images, 1000 classes.
"""

from __future__ import annotations

#: Of each stage: the channels inside of a block, and the number of blocks. A block puts out four times as many.
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
EXPANSION = 4
CLASSES = 1000
#: Doubles before the payload of a message (ONNX_CBP_MESSAGE_HEADER in c_api.h).
HEADER = 8
DOUBLE, FLOAT = 8, 4


def convolutions() -> list[tuple[int, int, int]]:
    """Each convolution, forward: input channels, output channels, kernel width. A batch norm is behind every one."""
    made = [(3, 64, 7)]
    channels = 64
    for width, blocks in STAGES:
        for block in range(blocks):
            made += [(channels, width, 1), (width, width, 3), (width, EXPANSION * width, 1)]
            if block == 0:  # the shortcut changes the number of channels
                made.append((channels, EXPANSION * width, 1))
            channels = EXPANSION * width
    return made


def batch_norms() -> list[int]:
    """The channels of each batch norm, in forward order."""
    return [outputs for _, outputs, _ in convolutions()]


def parameters() -> int:
    """All that is trained: kernels, scale and bias of the batch norms, and the last layer."""
    kernels = sum(inputs * outputs * width * width for inputs, outputs, width in convolutions())
    return kernels + 2 * sum(batch_norms()) + (batch_norms()[-1] + 1) * CLASSES


def forward_bytes(channels: int) -> int:
    """What a replica sends to AllGather: mean, variance and the count."""
    return DOUBLE * (HEADER + 2 * channels + 1)


def backward_bytes(channels: int) -> int:
    """What a replica sends to AllReduce: the sums for scale and bias."""
    return DOUBLE * (HEADER + 2 * channels)


def bucket_bytes(limit: int) -> list[int]:
    """The gradient's messages, of at most `limit` bytes each without the header; the last is the rest."""
    total = FLOAT * parameters()
    full, rest = divmod(total, limit)
    return [payload + FLOAT * HEADER for payload in [limit] * full + [rest] * (rest > 0)]
