"""Ops of ONNX's domain that ONNX Runtime's CUDA provider has a kernel for, by the type of what they read first.

From docs/OperatorKernels.md of github.com/microsoft/onnxruntime at 001d12d2623fd411ce0f83d05abb5e82304a3389: what
training graphs may hold, in the versions of opset 13 and newer. Nothing here was run on a GPU.
"""

from __future__ import annotations

_FLOAT = """
Abs Add ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Compress Concat Conv
ConvTranspose Cos CumSum DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor GRU
Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization
LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Min Mod Mul Neg NonZero PRelu Pad Pow
RMSNormalization RNN Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Size Slice Softmax Softplus Softsign
SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
"""
_INT64 = """
Abs Add Cast Clip Compress Concat ConstantOfShape CumSum Div Equal Expand Flatten Gather
GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg NonZero
OneHot Pow Range ReduceMax ReduceMin ReduceSum Reshape ReverseSequence ScatterElements ScatterND
Shape Shrink Sign Size Slice Split Squeeze Sub Tile TopK Transpose Trilu Unsqueeze
"""
_BOOL = """
And Cast Compress Concat Equal Expand Flatten Gather GatherElements GatherND Identity NonZero Not Or
Pad Reshape ScatterElements ScatterND Shape Size Slice Split Squeeze Transpose Trilu Unsqueeze Where
Xor
"""
#: The ops, by the name of the type.
ON_CUDA = {"FLOAT": frozenset(_FLOAT.split()), "INT64": frozenset(_INT64.split()), "BOOL": frozenset(_BOOL.split())}
#: Without a kernel, but made of ops by their function bodies before anything is placed, or no nodes by then.
MADE_OF_OTHERS = frozenset(("Celu", "Constant", "GroupNormalization", "Mish", "NegativeLogLikelihoodLoss"))
