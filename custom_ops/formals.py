"""Inputs, outputs and attributes that several ops share, each described once."""

from __future__ import annotations

from onnx_cbp.custom_ops.operator import Attribute, Tensor

X = Tensor("X", "T", "X", "Input data of rank 2 or more, channels at `axis`.")
Y = Tensor("Y", "T", "X", "Normalised data.")
DY = Tensor("dY", "T", "X", "Gradient of the loss with respect to Y.")
DX = Tensor("dX", "T", "X", "Gradient of the loss with respect to X.")
SCALE = Tensor("scale", "U", "C", "Scale (gamma) of every channel.")
B = Tensor("B", "U", "C", "Bias (beta) of every channel.")
MEAN = Tensor("mean", "U", "C", "Mean of every channel.")
VAR = Tensor("var", "U", "C", "Biased (population) variance of every channel.")
INV_STD = Tensor("inv_std", "U", "C", "1 / sqrt(var + epsilon) of every channel.")
SCALE_GRAD = Tensor("scale_grad", "U", "C", "sum(dY * (X - mean) * inv_std) of every channel.")
BIAS_GRAD = Tensor("bias_grad", "U", "C", "sum(dY) of every channel.")
SLOPE = Tensor("slope", "U", "C", "scale * inv_std of every channel, as Y was computed with it.")
OFFSET = Tensor("offset", "U", "C", "B of every channel, plus the rounding error of its mean.")
COUNT = Tensor("count", "int64", "", "Elements per channel (M).")

X_OF_WINDOWS = Tensor("X", "T", "X", "Input data [N, C, ...] with one to three axes of space.")
DY_OF_WINDOWS = Tensor("dY", "T", "windows", "Gradient of the loss with respect to the convolution's result.")
W = Tensor("W", "T", "weight", "Weight [O, C, k...].")
EXCHANGED_W = Tensor("W", "T", "exchanged weight", "Weight [C, O, k...] of the convolution whose gradient this is.")
Y_OF_CONV = Tensor("Y", "T", "outputs", "Result [N, O, ...].")
DY_OF_CONV = Tensor("dY", "T", "outputs", "Gradient of the loss with respect to the convolution's result.")
DW_OF_CONV = Tensor("dW", "T", "weight", "Gradient of the loss with respect to W [O, C, k...].")
DW = Tensor("dW", "T", "kernel", "Gradient of the loss with respect to W [C * m, 1, k...].")

AXIS = Attribute("axis", 1, "Axis of the channels, in [-rank, rank - 1]. -1 is NHWC.")
EPSILON = Attribute("epsilon", 1e-5, "Added to the variance before the square root.")
MOMENTUM = Attribute("momentum", 0.9, "Part of the running value that is kept.")
UNBIASED = Attribute("unbiased", 0, "1: the batch's variance is made unbiased.")
RELU = Attribute("relu", 0, "1: negative elements of Y become 0.")
STASH_TYPE = Attribute("stash_type", 1, "Type of the statistics: 1 float, 11 double.")

KERNEL_SHAPE = Attribute("kernel_shape", (), "Elements of a window along each axis of space.")
STRIDES = Attribute("strides", (), "From window to window, along each axis of space; 1 by default.")
PADS = Attribute("pads", (), "Zeros around X: at the beginning of each axis of space, then at the end; 0 by default.")
DILATIONS = Attribute("dilations", (), "From element to element of a window, along each axis; 1 by default.")

GROUP = Attribute(
    "group", "world", "Replicas that take part: 'world', 'size:K' (K consecutive ranks), or a defined name."
)
REDUCTION = Attribute("reduction", "sum", "'sum' or 'mean' over the replicas.")
LAYER = Attribute("layer", "", "Whose values these are; told to the other replicas and named in errors.")
