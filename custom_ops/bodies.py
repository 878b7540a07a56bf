"""Statements that function bodies share, in ONNX's textual syntax.

A body is written for any rank: `Flatten` at the channel axis gives the sizes before and after it, and X becomes
[outer, channels, inner].
"""

from __future__ import annotations

#: From this opset on, ReduceSum, Squeeze and Unsqueeze take their axes as inputs.
OLDEST_OPSET = 13
#: From this opset on, Reshape has `allowzero`.
ALLOWZERO_OPSET = 14
#: From this opset on, CastLike exists. Below it, bodies serve only float models (T = U = float).
MIXED_TYPES_OPSET = 15

CONSTANTS = """
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    one_count = Constant <value = int64 {1}> ()
    other_axes = Constant <value = int64[2] {0, 2}> ()
"""

AS_PLANES = """
    x_shape = Shape (X)
    flat = Flatten <axis: int = @axis> (X)
    flat_shape = Shape (flat)
    axis_index = Constant <value_int: int = @axis> ()
    channels_scalar = Gather (x_shape, axis_index)
    channels = Unsqueeze (channels_scalar, zero)
    outer = Gather (flat_shape, zero)
    channels_and_inner = Gather (flat_shape, one)
    channels_or_one = Max (channels, one)
    inner = Div (channels_and_inner, channels_or_one)
    planes_shape = Concat <axis = 0> (outer, channels, inner)
"""


def planes(name: str, opset: int, like: str) -> str:
    """`name` as [outer, channels, inner] in the type of `like`: value `{name}_planes`."""
    return f"""
    {name}_own_planes = {reshape(opset)} ({name}, planes_shape)
    {cast_like(f"{name}_planes", f"{name}_own_planes", like, opset)}
"""


def restore(name: str, planes_name: str, like: str, opset: int) -> str:
    """The value `name`: planes in the shape of X again, in the type of `like`."""
    return f"""{name}_u = {reshape(opset)} ({planes_name}, x_shape)
    {cast_like(name, f"{name}_u", like, opset)}"""


def reshape(opset: int) -> str:
    """Reshape that keeps an empty dimension empty. Before `allowzero`, it does so for an empty batch only."""
    return "Reshape <allowzero = 1>" if opset >= ALLOWZERO_OPSET else "Reshape"


def per_channel(*names: str) -> str:
    """Each vector [C] as [C, 1], which broadcasts over [outer, channels, inner]: values `{name}_column`."""
    return "".join(f"    {name}_column = Unsqueeze ({name}, one)\n" for name in names)


def cast_like(result: str, value: str, like: str, opset: int) -> str:
    """A cast of `value` to the type of `like`; an Identity if only one type is served."""
    if opset >= MIXED_TYPES_OPSET:
        return f"{result} = CastLike ({value}, {like})"
    return f"{result} = Identity ({value})"


def count_like(result: str, value: str, like: str, opset: int) -> str:
    """An int64 count, or a truth value as 1 or 0, in the type of `like`."""
    if opset >= MIXED_TYPES_OPSET:
        return f"{result} = CastLike ({value}, {like})"
    return f"{result} = Cast <to = 1> ({value})"
